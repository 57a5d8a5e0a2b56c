"""Drawing codes with any stock causal LM: prompts and their unconditional twins in one forward, one cache.

This is the loop; how a model gets from an id to the next logits is a `Decoder`'s (lm/decoders.py).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from data_prep.sequences import left_pad
from data_prep.vocabulary import Vocabulary
from lm.decoders import build_decoder
from lm.sampling import SamplingConfig, guided_logits, sample
from training.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator] | None
UNKNOWN = -1  # a code that is to be drawn


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
    on_code: Callable[[int, Tensor], None] | None = None,
    compile: bool = False,
) -> Int[Tensor, "b n"]:
    """Codes (B, num_codes) in [0, K) that continue each prompt `bos caption boi`, on the model's device.

    Only image codes can be drawn, whatever the model prefers. `generator` is one for all rows or one a row; with one
    a row, a prompt draws the same picture alone and in any batch. `known` holds codes that stay and `UNKNOWN` where
    one is to be drawn. Guidance leads away from `negative_prompts`, by default from no prompt.
    `on_logits(step, conditional, unconditional, guided)` sees every step that is not known of all rows before the
    first that is drawn; `on_code(step, codes)` then gets the codes (B,). For `compile` see `build_decoder`.
    Raises UserError for non-finite logits.
    """
    device, image = model.device, vocabulary.image
    known = torch.full((len(prompts), num_codes), UNKNOWN) if known is None else known
    known = known.to(device)
    start = _known_by_all(known)
    rows = [
        prompt + ids for prompt, ids in zip(prompts, vocabulary.codes_to_ids(known[:, :start]).tolist(), strict=True)
    ]
    if settings.is_guided:
        twins = negative_prompts or [[vocabulary.bos, vocabulary.boi]] * len(prompts)
        rows += [twin + row[len(prompt) :] for twin, row, prompt in zip(twins, rows, prompts, strict=True)]
    uniform = draw_uniform(len(prompts), num_codes, generator, device)
    codes = [*known[:, :start].unbind(1)]
    decoder = build_decoder(model, slice(image.offset, image.stop), compile)
    input_ids, mask, _ = (tensor.to(device) for tensor in left_pad(rows, vocabulary.pad))
    logits = decoder.read(input_ids, mask, num_codes - start)  # (B or 2B, K)
    for step in range(start, num_codes):
        require_finite(logits, f"code {step}")
        conditional, unconditional = logits, None
        if settings.is_guided:
            conditional, unconditional = logits.chunk(2)
        guided = guided_logits(conditional, unconditional, settings.at(step, num_codes))
        if on_logits is not None:
            on_logits(step, conditional, unconditional, guided)
        drawn = sample(guided, uniform[:, step], settings.temperature)
        codes.append(torch.where(known[:, step] == UNKNOWN, drawn, known[:, step]))
        if on_code is not None:
            on_code(step, codes[-1])
        if step + 1 < num_codes:
            next_ids = codes[-1] + image.offset
            logits = decoder.step(next_ids.repeat(2) if settings.is_guided else next_ids)
    return torch.stack(codes, 1)


def _known_by_all(known: Int[Tensor, "b n"]) -> int:
    """How many codes every row begins with that need no drawing."""
    return int((known != UNKNOWN).all(0).cumprod(0).sum())


def require_finite(logits: Tensor, where: str) -> None:
    """Raises UserError if a logit is not finite."""
    if not logits.isfinite().all():
        raise UserError(
            f"The model's logits are not finite at {where}; its weights are damaged or its training diverged. "
            "Train it again with a lower --learning-rate, or in fp32."
        )


def draw_uniform(rows: int, columns: int, generator: Generators, device: torch.device) -> Tensor:
    """(rows, columns) in [0, 1), each row from its own generator where there is one a row."""
    if generator is None or isinstance(generator, torch.Generator):
        where = generator.device if generator is not None else device
        return torch.rand(rows, columns, generator=generator, device=where).to(device)
    if len(generator) != rows:
        raise UserError(f"generator must be one, or one for each of the {rows} pictures; found {len(generator)}.")
    return torch.stack([torch.rand(columns, generator=own, device=own.device).to(device) for own in generator])
