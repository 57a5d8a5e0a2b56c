"""Drawing some codes of a picture again while the others stay, with a model that reads from the first code to the last.

The masked codes are drawn from left to right, with the known ones put in their places. Drawing alone sees only what
comes before a hole. What comes after it is used by choosing: of several fillings the one is kept that makes the known
codes after it likeliest. At temperature 1, without guidance or cuts, that likelihood is the importance weight of the
filling under the model's p(masked | known); the best filling is kept, not one drawn by its weight, so this is a search,
not a sample.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.decoding.draw import UNKNOWN, draw_codes
from vqlm.lm.decoding.likelihood import code_log_likelihoods
from vqlm.lm.settings import DecodingOptions, SamplingConfig
from vqlm.training.errors import UserError
from vqlm.vq import VQVAEConfig


@torch.no_grad()
def fill_codes(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: list[list[int]],
    codes: Int[Tensor, "b n"],
    masks: Bool[Tensor, "b n"],
    settings: SamplingConfig,
    candidates: int,
    generator: torch.Generator | None = None,
    options: DecodingOptions | None = None,
) -> Int[Tensor, "b n"]:
    """`codes` with those under `masks` drawn again after their prompts; for each row the likeliest of `candidates`
    fillings. The candidates of a row are drawn together, as many rows at a time as fit in `options.batch_size`."""
    options = options or DecodingOptions()
    known = torch.where(masks, UNKNOWN, codes).to(model.device)
    at_once, filled = max(1, options.batch_size // candidates), []
    for start in range(0, len(prompts), at_once):
        rows = known[start : start + at_once].repeat_interleave(candidates, 0)
        repeated = [prompt for prompt in prompts[start : start + at_once] for _ in range(candidates)]
        drawn = draw_codes(
            model, vocabulary, repeated, codes.shape[1], settings, generator, known=rows, options=options
        )
        log_probs = code_log_likelihoods(model, vocabulary, repeated, drawn)
        weights = log_probs.masked_fill(rows == UNKNOWN, 0.0).sum(1)
        best = weights.view(-1, candidates).argmax(1)
        filled.append(drawn.view(-1, candidates, codes.shape[1])[torch.arange(len(best)), best])
    return torch.cat(filled)


def code_grid(config: VQVAEConfig) -> tuple[int, ...]:
    """(h, w) of the codes. Raises UserError for codes that do not lie on a grid that is read row by row."""
    if len(config.network.input_shape) != 2 or len(config.code_shape) < 2:
        raise UserError(f"This needs pictures whose codes lie on a grid; here their shape is {config.code_shape}.")
    return tuple(config.code_shape[:2])


def code_mask(mask: Image.Image | Tensor, shape: Sequence[int], grid: tuple[int, ...]) -> Tensor:
    """(h, w) bool: the codes of which any pixel is masked."""
    pixels = torch.from_numpy(np.array(mask.convert("L")) > 127) if isinstance(mask, Image.Image) else mask.bool()
    if tuple(pixels.shape) != tuple(shape):
        raise UserError(
            f"`mask` must be {shape[0]} high and {shape[1]} wide, as the pictures; found {tuple(pixels.shape)}."
        )
    if not pixels.any():
        raise UserError("`mask` is empty: nothing is to be drawn. White, or True, is what is drawn again.")
    return F.adaptive_max_pool2d(pixels[None, None].float(), grid)[0, 0].bool()


def random_mask(codes: Int[Tensor, "b n"], share: float, generator: torch.Generator | None) -> Bool[Tensor, "b n"]:
    """A random `share` of the codes of each row, at least one."""
    if not 0 < share <= 1:
        raise UserError(f"`share` must lie in (0, 1], found {share}.")
    device = generator.device if generator is not None else "cpu"
    order = torch.rand(codes.shape, generator=generator, device=device).argsort(1).to(codes.device)
    return order < max(1, round(share * codes.shape[1]))
