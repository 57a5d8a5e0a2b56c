"""The loop that draws codes with any stock causal LM: prompts and their unconditional rows in one forward, one cache.

How a model gets from an id to the next logits is the task of a decoder (lm/decoding/decoders.py).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from vqlm.data_prep.sequences import left_pad
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.decoding.decoders import build_decoder
from vqlm.lm.decoding.sampling import NOT_FINITE, Generators, draw_uniform, guided_logits, sample
from vqlm.lm.settings import DecodingOptions, SamplingConfig
from vqlm.training.errors import UserError
from vqlm.training.machine.allocator import keep_freed_memory, return_freed_memory

OnCodes = Callable[[int, Tensor], None]
MOST_ROWS = 4096
UNKNOWN = -1  # a code that is to be drawn
SHORT_OF_MEMORY = "Memory is short: pictures are drawn {} at a time."


@dataclass
class RowsToDraw:
    """What is drawn from: for each of B rows its prompt `bos caption boi`, the unconditional prompt that guidance leads
    away from (None without guidance), the codes that are known and `UNKNOWN`, and random numbers in [0, 1)."""

    prompts: list[list[int]]
    unconditional: list[list[int]] | None
    known: Int[Tensor, "b n"]
    uniform: Float[Tensor, "b n"]

    def part(self, start: int, size: int) -> "RowsToDraw":
        """`size` rows from `start` on."""
        rows = slice(start, start + size)
        unconditional = None if self.unconditional is None else self.unconditional[rows]
        return RowsToDraw(self.prompts[rows], unconditional, self.known[rows], self.uniform[rows])


@torch.no_grad()
def draw_codes(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: list[list[int]],
    num_codes: int,
    settings: SamplingConfig,
    generator: Generators = None,
    *,
    known: Int[Tensor, "b n"] | None = None,
    negative_prompts: list[list[int]] | None = None,
    on_codes: OnCodes | None = None,
    options: DecodingOptions | None = None,
) -> Int[Tensor, "b n"]:
    """Codes (B, num_codes) in [0, K) that continue each prompt `bos caption boi`, on the model's device.

    Only image codes can be drawn, whatever the model prefers. `generator` is one for all rows or one per row; with one
    per row, a prompt draws the same picture alone and in any batch, in fp32: rounding in bf16, fp16 and
    int8 depends on the batch. `known` holds codes that stay, and `UNKNOWN` where a code is to be drawn. Guidance leads
    away from `negative_prompts`, by default from no prompt. Rows are drawn
    `options.batch_size` at a time, fewer where memory is short; `on_codes(step, codes)` gets all codes so far of such a
    part, (b, step + 1), after every step but those that all rows know at the beginning.
    Raises UserError for logits that are not finite.
    """
    if on_codes is not None and not callable(on_codes):
        raise UserError(f"`callback` must be callable, as `callback(step, codes)`; found {on_codes!r:.40}.")
    count, device, options = len(prompts), model.device, options or DecodingOptions()
    if device.type == "cpu":
        keep_freed_memory()
    unconditional = None
    if settings.is_guided:
        unconditional = negative_prompts or [[vocabulary.bos, vocabulary.boi]] * count
    known = torch.full((count, num_codes), UNKNOWN) if known is None else known
    rows = RowsToDraw(prompts, unconditional, known, draw_uniform(count, num_codes, generator, device))
    batch_size = min(options.batch_size, MOST_ROWS, max(1, count))
    length = max(map(len, [*prompts, *(unconditional or [])]), default=0) + num_codes
    if rows_that_fit(model, length) < batch_size:
        return_freed_memory()
        if (fitting := rows_that_fit(model, length)) < batch_size:
            batch_size = fitting
            warnings.warn(SHORT_OF_MEMORY.format(batch_size), stacklevel=2)
    parts, start = [torch.empty(0, num_codes, dtype=torch.int64, device=device)], 0
    while start < count:
        try:
            codes = _draw_part(model, vocabulary, rows.part(start, batch_size), settings, options, on_codes)
        except RuntimeError as error:
            if batch_size == 1 or not _is_short_of_memory(error):
                raise
            batch_size //= 2
            warnings.warn(SHORT_OF_MEMORY.format(batch_size), stacklevel=2)
            continue
        parts.append(codes)
        start += batch_size
    return torch.cat(parts)


def _draw_part(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    rows: RowsToDraw,
    settings: SamplingConfig,
    options: DecodingOptions,
    on_codes: OnCodes | None,
) -> Int[Tensor, "b n"]:
    image, num_codes, is_guided = vocabulary.image, rows.known.shape[1], rows.unconditional is not None
    known = rows.known.to(model.device)
    first, is_any_known = _known_by_all(known), bool((known != UNKNOWN).any())
    prompts = [*rows.prompts, *(rows.unconditional or [])]
    first_ids = vocabulary.codes_to_ids(known[:, :first]).tolist() * (2 if is_guided else 1)
    ids = [prompt + codes for prompt, codes in zip(prompts, first_ids, strict=True)]
    input_ids, mask, _ = (tensor.to(model.device) for tensor in left_pad(ids, vocabulary.pad))
    decoder = build_decoder(model, slice(image.offset, image.stop), options)
    logits = decoder.read(input_ids, mask, num_codes - first)  # (B or 2B, K)
    codes, sums = [*known[:, :first].unbind(1)], []
    for step in range(first, num_codes):
        sums.append(logits.sum())
        conditional, unconditional = logits.chunk(2) if is_guided else (logits, None)
        guided = guided_logits(conditional, unconditional, settings.at(step, num_codes))
        drawn = sample(guided, rows.uniform[:, step], settings.temperature)
        codes.append(torch.where(known[:, step] == UNKNOWN, drawn, known[:, step]) if is_any_known else drawn)
        if on_codes is not None:
            on_codes(step, torch.stack(codes, 1))
        if step + 1 < num_codes:
            next_ids = codes[-1] + image.offset
            logits = decoder.step(next_ids.repeat(2) if is_guided else next_ids)
    # Checked once, after the loop: on a GPU every check waits for the device.
    if sums and not (is_finite := torch.stack(sums).isfinite()).all():
        raise UserError(NOT_FINITE.format(f"code {first + int(is_finite.long().argmin())}"))
    return torch.stack(codes, 1)


def rows_that_fit(model: PreTrainedModel, length: int) -> int:
    """How many rows of `length` ids, each with its unconditional row, have their KV cache in half of the free memory.

    Counted on a CPU only: Linux ends a process that takes too much, where a GPU refuses and half as much can be tried.
    """
    if model.device.type != "cpu":
        return MOST_ROWS
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    bytes_per_row = 2 * 2 * 4 * config.num_hidden_layers * width * max(1, length)
    return max(1, min(MOST_ROWS, psutil.virtual_memory().available // 2 // bytes_per_row))


def _is_short_of_memory(error: RuntimeError) -> bool:
    """Whether `error` says so; if it does, the device's cache is cleared for another try."""
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    if not should_reduce_batch_size(error):
        return False
    clear_device_cache(garbage_collection=True)
    return True


def _known_by_all(known: Int[Tensor, "b n"]) -> int:
    """The number of codes at the beginning that every row knows."""
    return int((known != UNKNOWN).all(0).cumprod(0).sum())
