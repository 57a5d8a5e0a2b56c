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

from data_prep.vocabulary import Vocabulary
from lm.decoding import UNKNOWN, draw_codes
from lm.sampling import SamplingConfig
from training.errors import UserError


@torch.no_grad()
def fill_codes(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompt: list[int],
    codes: Int[Tensor, " n"],
    mask: Bool[Tensor, " n"],
    settings: SamplingConfig,
    candidates: int,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " n"]:
    """`codes` with those under `mask` drawn anew after `prompt`; the likeliest of `candidates` fillings."""
    known = torch.where(mask, UNKNOWN, codes).to(model.device)
    rows = known.expand(candidates, -1)
    weight = torch.zeros(candidates, device=model.device)

    def weigh(step: int, conditional: Tensor, _unconditional: Tensor | None, _guided: Tensor) -> None:
        if known[step] != UNKNOWN:
            weight.add_(conditional.float().log_softmax(-1)[:, known[step]])

    drawn = draw_codes(
        model, vocabulary, [prompt] * candidates, len(codes), settings, generator, weigh, known=rows
    )  # fmt: skip
    return drawn[weight.argmax()]


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
