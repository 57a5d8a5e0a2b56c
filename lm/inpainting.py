"""Drawing some codes of a picture again while the others stay, with a model that reads from the first code to the last.

The masked codes are drawn left to right with the known ones put in their places. That alone sees only what stands
before a hole. What stands behind it is taken in by importance resampling (Rubin 1988): of several fillings one is
chosen by how likely it makes the known codes that follow, which is the weight of a draw from the left-to-right
proposal under the model's own p(masked | known).
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from data_prep.vocabulary import Vocabulary
from lm.decoding import UNKNOWN, draw_codes
from lm.sampling import SamplingConfig


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
