"""Drawing codes with any stock causal LM: prompts and their unconditional twins in one forward, one cache."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from data_prep.sequences import left_pad
from data_prep.vocabulary import Vocabulary
from lm.sampling import SamplingConfig, guided_logits, sample
from training.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator] | None


@torch.no_grad()
def draw_codes(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: list[list[int]],
    num_codes: int,
    settings: SamplingConfig,
    generator: Generators = None,
    on_logits: Callable[[int, Tensor, Tensor | None, Tensor], None] | None = None,
) -> Int[Tensor, "b n"]:
    """Codes (B, num_codes) in [0, K) that continue each prompt `bos caption boi`, on the model's device.

    Only image codes can be drawn, whatever the model prefers. `generator` is one for all rows or one a row; with one
    a row, a prompt draws the same picture alone and in any batch. `on_logits(step, conditional, unconditional,
    guided)` sees every step. Raises UserError for non-finite logits.
    """
    device, image = model.device, vocabulary.image
    rows = list(prompts)
    if settings.is_guided:
        rows += [[vocabulary.bos, vocabulary.boi]] * len(prompts)
    input_ids, mask, positions = (tensor.to(device) for tensor in left_pad(rows, vocabulary.pad))
    uniform = _uniform(len(prompts), num_codes, generator, device)
    cache, codes = DynamicCache(config=model.config), []
    for step in range(num_codes):
        logits = model(
            input_ids=input_ids, attention_mask=mask, position_ids=positions,
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        ).logits[:, -1, image.offset : image.stop]  # (B or 2B, K)  # fmt: skip
        if not logits.isfinite().all():
            raise UserError(
                f"The model's logits are not finite at code {step}; its weights are damaged or its training diverged. "
                "Train it again with a lower --learning-rate, or in fp32."
            )
        conditional, unconditional = logits, None
        if settings.is_guided:
            conditional, unconditional = logits.chunk(2)
        guided = guided_logits(conditional, unconditional, settings)
        if on_logits is not None:
            on_logits(step, conditional, unconditional, guided)
        codes.append(sample(guided, uniform[:, step], settings.temperature))
        next_ids = vocabulary.codes_to_ids(codes[-1])
        input_ids = (next_ids.repeat(2) if settings.is_guided else next_ids).unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        positions = positions[:, -1:] + 1
    return torch.stack(codes, 1)


def _uniform(rows: int, columns: int, generator: Generators, device: torch.device) -> Tensor:
    """(rows, columns) in [0, 1), each row from its own generator where there is one a row."""
    if generator is None or isinstance(generator, torch.Generator):
        where = generator.device if generator is not None else device
        return torch.rand(rows, columns, generator=generator, device=where).to(device)
    if len(generator) != rows:
        raise UserError(f"generator must be one, or one for each of the {rows} pictures; found {len(generator)}.")
    return torch.stack([torch.rand(columns, generator=own, device=own.device).to(device) for own in generator])
