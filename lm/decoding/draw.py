"""Drawing codes with any stock causal LM: prompts and their unconditional twins in one forward, one cache.

This is the loop; how a model gets from an id to the next logits is a `Decoder`'s (lm/decoding/decoders.py).
"""

import warnings
from collections.abc import Callable, Sequence

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from vqlm.data_prep.sequences import left_pad
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.decoding.decoders import build_decoder
from vqlm.lm.decoding.sampling import guided_logits, sample
from vqlm.lm.settings import SamplingConfig
from vqlm.training.allocator import keep_freed_memory, return_freed_memory
from vqlm.training.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator] | None
MOST_ROWS = 4096
UNKNOWN = -1  # a code that is to be drawn
SHORT_OF_MEMORY = "Memory is short: pictures are drawn {} at a time."
NOT_FINITE = (
    "The model's logits are not finite at {}; its weights are damaged or its training diverged. Train it again with a "
    "lower --learning-rate, or in fp32."
)


@torch.no_grad()
def draw_codes(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: list[list[int]],
    num_codes: int,
    settings: SamplingConfig,
    generator: Generators = None,
    on_logits: Callable[[int, Tensor, Tensor | None, Tensor], None] | None = None,
    *,
    known: Int[Tensor, "b n"] | None = None,
    negative_prompts: list[list[int]] | None = None,
    on_codes: Callable[[int, Tensor], None] | None = None,
    batch_size: int = 64,
    compile: bool = False,
    quantize: str | None = None,
) -> Int[Tensor, "b n"]:
    """Codes (B, num_codes) in [0, K) that continue each prompt `bos caption boi`, on the model's device.

    Only image codes can be drawn, whatever the model prefers. `generator` is one for all rows or one a row; with one
    a row, a prompt draws the same picture alone and in any batch. `known` holds codes that stay and `UNKNOWN` where
    one is to be drawn. Guidance leads away from `negative_prompts`, by default from no prompt. `batch_size` rows are
    drawn at a time, fewer where memory is short. Of each such part,
    `on_logits(step, conditional, unconditional, guided)` sees every step that is not known of all rows before the
    first that is drawn; `on_codes(step, codes)` then gets all its codes so far, (b, step + 1). For `compile`
    and `quantize` see `build_decoder`. Raises UserError for non-finite logits.
    """
    count, device = len(prompts), model.device
    if device.type == "cpu":
        keep_freed_memory()
    uniform = draw_uniform(count, num_codes, generator, device)
    known = torch.full((count, num_codes), UNKNOWN) if known is None else known
    twins = None
    if settings.is_guided:
        twins = negative_prompts or [[vocabulary.bos, vocabulary.boi]] * count
    parts, start = [torch.empty(0, num_codes, dtype=torch.int64, device=device)], 0
    batch_size = min(batch_size, MOST_ROWS, max(1, count))
    length = max(map(len, [*prompts, *(twins or [])]), default=0) + num_codes
    if rows_that_fit(model, length) < batch_size:
        return_freed_memory()
        if (fitting := rows_that_fit(model, length)) < batch_size:
            batch_size = fitting
            warnings.warn(SHORT_OF_MEMORY.format(batch_size), stacklevel=2)
    while start < count:
        part = slice(start, start + batch_size)
        try:
            drawn = _draw_part(
                model, vocabulary, prompts[part], None if twins is None else twins[part], known[part].to(device),
                uniform[part], settings, on_logits, on_codes, compile, quantize,
            )  # fmt: skip
        except RuntimeError as error:
            if batch_size == 1 or not should_reduce_batch_size(error):
                raise
            batch_size //= 2
            clear_device_cache(garbage_collection=True)
            warnings.warn(SHORT_OF_MEMORY.format(batch_size), stacklevel=2)
            continue
        parts.append(drawn)
        start += batch_size
    return torch.cat(parts)


def _draw_part(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: list[list[int]],
    twins: list[list[int]] | None,
    known: Int[Tensor, "b n"],
    uniform: Float[Tensor, "b n"],
    settings: SamplingConfig,
    on_logits: Callable[[int, Tensor, Tensor | None, Tensor], None] | None,
    on_codes: Callable[[int, Tensor], None] | None,
    compile: bool,
    quantize: str | None,
) -> Int[Tensor, "b n"]:
    image, num_codes = vocabulary.image, known.shape[1]
    first, is_any_known = _known_by_all(known), bool((known != UNKNOWN).any())
    begun = vocabulary.codes_to_ids(known[:, :first]).tolist()
    rows = [prompt + ids for prompt, ids in zip([*prompts, *(twins or [])], begun * (2 if twins else 1), strict=True)]
    codes = [*known[:, :first].unbind(1)]
    decoder = build_decoder(model, slice(image.offset, image.stop), compile, quantize)
    input_ids, mask, _ = (tensor.to(model.device) for tensor in left_pad(rows, vocabulary.pad))
    logits = decoder.read(input_ids, mask, num_codes - first)  # (B or 2B, K)
    sums = []
    for step in range(first, num_codes):
        sums.append(logits.sum())
        conditional, unconditional = (logits, None) if twins is None else logits.chunk(2)
        guided = guided_logits(conditional, unconditional, settings.at(step, num_codes))
        if on_logits is not None:
            on_logits(step, conditional, unconditional, guided)
        drawn = sample(guided, uniform[:, step], settings.temperature)
        codes.append(torch.where(known[:, step] == UNKNOWN, drawn, known[:, step]) if is_any_known else drawn)
        if on_codes is not None:
            on_codes(step, torch.stack(codes, 1))
        if step + 1 < num_codes:
            next_ids = codes[-1] + image.offset
            logits = decoder.step(next_ids if twins is None else next_ids.repeat(2))
    # Asked once, behind the loop: on a GPU every question waits for the device.
    if sums and not (found := torch.stack(sums).isfinite()).all():
        raise UserError(NOT_FINITE.format(f"code {first + int(found.long().argmin())}"))
    return torch.stack(codes, 1)


def rows_that_fit(model: PreTrainedModel, length: int) -> int:
    """How many rows of `length` ids, each with its twin, have their cache in half of the memory that is free.

    Asked of a CPU only: Linux ends a process that takes too much, where a GPU refuses and half as much can be tried.
    """
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    bytes_a_row = 2 * 2 * 4 * config.num_hidden_layers * width * max(1, length)
    if model.device.type != "cpu":
        return MOST_ROWS
    return max(1, min(MOST_ROWS, psutil.virtual_memory().available // 2 // bytes_a_row))


def _known_by_all(known: Int[Tensor, "b n"]) -> int:
    """How many codes every row begins with that need no drawing."""
    return int((known != UNKNOWN).all(0).cumprod(0).sum())


def require_finite(logits: Tensor, where: str) -> None:
    """Raises UserError if a logit is not finite."""
    if not logits.isfinite().all():
        raise UserError(NOT_FINITE.format(where))


def draw_uniform(rows: int, columns: int, generator: Generators, device: torch.device) -> Tensor:
    """(rows, columns) in [0, 1), each row from its own generator where there is one a row."""
    if generator is None or isinstance(generator, torch.Generator):
        where = generator.device if generator is not None else device
        return torch.rand(rows, columns, generator=generator, device=where).to(device)
    own_each = generators_of(generator, rows)
    return torch.stack([torch.rand(columns, generator=own, device=own.device).to(device) for own in own_each])


def generators_of(generator: Generators, rows: int) -> list:
    """One a row: its own, or the one of all. Raises UserError for a list of another length."""
    if generator is None or isinstance(generator, torch.Generator):
        return [generator] * rows
    if len(generator) != rows:
        raise UserError(f"generator must be one, or one for each of the {rows} pictures; found {len(generator)}.")
    return list(generator)
