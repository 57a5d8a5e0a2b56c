"""Drawing some codes of a picture again while the others stay, with a model that reads from the first code to the last.

The masked codes are drawn left to right with the known ones put in their places. That alone sees only what stands
before a hole. What stands behind it is taken in by a choice: of several fillings the one is kept that makes the known
codes behind it likeliest. At temperature 1 without guidance or cuts that is the importance weight of the filling under
the model's p(masked | known); the best is kept, not one drawn by its weight, so this is a search and no sample.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from data_prep.vocabulary import Vocabulary
from lm.decoding import UNKNOWN, draw_codes
from lm.sampling import SamplingConfig
from training.errors import UserError

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
        weights = torch.zeros(len(rows), device=model.device)
        weigh = partial(_weigh, weights, rows)
        drawn = draw_codes(model, vocabulary, repeated, codes.shape[1], settings, generator, weigh, known=rows)
        best = weights.view(-1, candidates).argmax(1, keepdim=True)  # (B, 1)
        drawn = drawn.view(-1, candidates, codes.shape[1])
        filled.append(drawn.take_along_dim(best.unsqueeze(-1), 1).squeeze(1))
    return torch.cat(filled)


def _weigh(
    weights: Tensor, known: Tensor, step: int, conditional: Tensor, _unconditional: Tensor | None, _guided: Tensor
) -> None:
    """Add what the model thinks of each row's code at `step`, where that is known."""
    here = known[:, step]
    log_probs = conditional.float().log_softmax(-1).gather(1, here.clamp(min=0).unsqueeze(1)).squeeze(1)
    weights.add_(log_probs.masked_fill(here == UNKNOWN, 0.0))


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
