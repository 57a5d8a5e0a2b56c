"""Drawing some codes of a picture again while the others stay, with a model that reads from the first code to the last.

The masked codes are drawn left to right with the known ones put in their places. That alone sees only what stands
before a hole. What stands behind it is taken in by a choice: of several fillings the one is kept that makes the known
codes behind it likeliest. At temperature 1 without guidance or cuts that is the importance weight of the filling under
the model's p(masked | known); the best is kept, not one drawn by its weight, so this is a search and no sample.
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
from vqlm.lm.settings import SamplingConfig
from vqlm.training.errors import UserError

ROWS_AT_ONCE = 64


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
) -> Int[Tensor, "b n"]:
    """`codes` with those under `masks` drawn anew after their prompts; of each row the likeliest of `candidates`
    fillings. The candidates of a row are drawn together, as many rows at a time as make `ROWS_AT_ONCE`."""
    known = torch.where(masks, UNKNOWN, codes).to(model.device)
    at_once, filled = max(1, ROWS_AT_ONCE // candidates), []
    for start in range(0, len(prompts), at_once):
        rows = known[start : start + at_once].repeat_interleave(candidates, 0)
        repeated = [prompt for prompt in prompts[start : start + at_once] for _ in range(candidates)]
        drawn = draw_codes(model, vocabulary, repeated, codes.shape[1], settings, generator, known=rows)
        log_probs = code_log_likelihoods(model, vocabulary, repeated, drawn)
        weights = log_probs.masked_fill(rows == UNKNOWN, 0.0).sum(1)
        best = weights.view(-1, candidates).argmax(1)
        filled.append(drawn.view(-1, candidates, codes.shape[1])[torch.arange(len(best)), best])
    return torch.cat(filled)


def code_mask(mask: Image.Image | Tensor, shape: Sequence[int], grid: tuple[int, ...]) -> Tensor:
    """(h, w) bool: the codes of which any pixel is masked."""
    pixels = torch.from_numpy(np.array(mask.convert("L")) > 127) if isinstance(mask, Image.Image) else mask.bool()
    if tuple(pixels.shape) != tuple(shape):
        raise UserError(
            f"mask must be {shape[0]} high and {shape[1]} wide, as the pictures; found {tuple(pixels.shape)}."
        )
    if not pixels.any():
        raise UserError("mask is empty: nothing is to be drawn. White, or True, is what is drawn again.")
    return F.adaptive_max_pool2d(pixels[None, None].float(), grid)[0, 0].bool()
