"""Drawing some codes of a picture again while the others stay, with a model that reads from the first code to the last.

The masked codes are drawn from left to right, with the known ones put in their places. Drawing alone sees only what
comes before a hole. What comes after it is used by choosing: of several fillings the one is kept that makes the known
codes after it likeliest. At temperature 1, without guidance or cuts, that likelihood is the importance weight of the
filling under the model's p(masked | known); the best filling is kept, not one drawn by its weight, so this is a search,
not a sample.
"""

from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.decoding.draw import UNKNOWN, OnCodes, draw_codes
from vqlm.lm.decoding.likelihood import code_log_likelihoods
from vqlm.lm.decoding.sampling import Generators, draw_uniform, generators_of
from vqlm.lm.prompts import repeated
from vqlm.lm.settings import DecodingOptions, SamplingConfig
from vqlm.training.errors import UserError
from vqlm.vq import VQVAEConfig

Mask = Image.Image | np.ndarray | Tensor


@torch.no_grad()
def fill_codes(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: list[list[int]],
    codes: Int[Tensor, "b n"],
    masks: Bool[Tensor, "b n"],
    settings: SamplingConfig,
    candidates: int,
    generator: Generators = None,
    options: DecodingOptions | None = None,
    *,
    negative_prompts: list[list[int]] | None = None,
    on_codes: OnCodes | None = None,
) -> Int[Tensor, "b n"]:
    """`codes` with those under `masks` drawn again after their prompts; for each row the likeliest of `candidates`
    fillings. The candidates of a row are drawn together, as many rows at a time as fit in `options.batch_size`.

    `generator` is one for all rows or one per row. `on_codes` gets the codes of all candidates, see `draw_codes`."""
    options = options or DecodingOptions()
    generators = None if generator is None else generators_of(generator, len(prompts))
    known = torch.where(masks, UNKNOWN, codes).to(model.device)
    at_once, filled = max(1, options.batch_size // candidates), []
    for start in range(0, len(prompts), at_once):
        part = slice(start, start + at_once)
        rows = known[part].repeat_interleave(candidates, 0)
        repeated_prompts = repeated(prompts[part], candidates)
        drawn = draw_codes(
            model, vocabulary, repeated_prompts, codes.shape[1], settings,
            None if generators is None else repeated(generators[part], candidates), known=rows, options=options,
            negative_prompts=None if negative_prompts is None else repeated(negative_prompts[part], candidates),
            on_codes=on_codes,
        )  # fmt: skip
        weights = likelihood_of_known(model, vocabulary, repeated_prompts, drawn, rows)
        best = weights.view(-1, candidates).argmax(1)
        filled.append(drawn.view(-1, candidates, codes.shape[1])[torch.arange(len(best)), best])
    return torch.cat(filled)


def likelihood_of_known(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: list[list[int]],
    codes: Int[Tensor, "b n"],
    known: Int[Tensor, "#b n"],
) -> Float[Tensor, " b"]:
    """log p of those `codes` that `known` holds, not `UNKNOWN`, each given all codes before it: how well a filling
    fits."""
    log_probs = code_log_likelihoods(model, vocabulary, prompts, codes)
    return log_probs.masked_fill(known == UNKNOWN, 0.0).sum(1)


def code_grid(config: VQVAEConfig) -> tuple[int, ...]:
    """(h, w) of the codes. Raises UserError for codes that do not lie on a grid that is read row by row."""
    if len(config.network.input_shape) != 2 or len(config.code_shape) < 2:
        raise UserError(
            "`complete` and `inpaint` need codes on a grid (h, w); this model's have the shape "
            f"{tuple(config.code_shape)}, as those of a hierarchy and of series have."
        )
    return tuple(config.code_shape[:2])


def flat_code_mask(mask: Mask, config: VQVAEConfig) -> Bool[Tensor, " n"]:
    """Which codes of a picture are drawn again under `mask`: see `code_mask`."""
    cells = code_mask(mask, config.network.input_shape, code_grid(config))
    return cells.flatten().repeat_interleave(config.tokens_per_image // cells.numel())


def code_mask(mask: Mask, shape: Sequence[int], grid: tuple[int, ...]) -> Tensor:
    """(h, w) bool: the codes of which any pixel is masked. Numbers are masked above half: of 255, or of 1."""
    if isinstance(mask, Image.Image):
        mask = np.array(mask.convert("L"))
    try:
        pixels = torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError):
        pixels = None
    if pixels is None or pixels.is_complex():
        raise UserError(
            f"`mask` must be a PIL picture, or an array or tensor of numbers or booleans; found {type(mask).__name__}."
        )
    if pixels.dtype not in (torch.bool, torch.uint8):
        pixels = pixels.double()  # some integers know no comparison
    if tuple(pixels.shape) != tuple(shape):
        raise UserError(
            f"`mask` must be {shape[0]} high and {shape[1]} wide, as the pictures; found {tuple(pixels.shape)}."
        )
    if pixels.dtype != torch.bool:
        pixels = pixels > (127 if pixels.max() > 1 else 0.5)
    if not pixels.any():
        raise UserError("`mask` is empty; mark the part to draw again with white or True.")
    return F.adaptive_max_pool2d(pixels[None, None].float(), grid)[0, 0].bool()


def random_mask(codes: Int[Tensor, "b n"], share: float, generator: Generators) -> Bool[Tensor, "b n"]:
    """A random `share` of the codes of each row, at least one."""
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share <= 1:
        raise UserError(f"`share` must lie in (0, 1], found {share!r:.40}.")
    order = draw_uniform(len(codes), codes.shape[1], generator, codes.device).argsort(1)
    return order < max(1, round(share * codes.shape[1]))
