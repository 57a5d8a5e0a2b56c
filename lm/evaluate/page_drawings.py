"""What the page shows beside the report's own drawings: several draws of a prompt, and one by guidance and temperature.

Few pictures, so that the page costs a small part of the evaluation.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vqlm.data_prep.splits import TRAIN
from vqlm.lm.evaluate.gallery import decode_flat
from vqlm.lm.evaluate.report import Shown
from vqlm.lm.pipeline import TextToImagePipeline

DRAWS = 6
GUIDANCE_SCALES, TEMPERATURES = (1.0, 1.5, 2.0, 3.0), (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Draws:
    """Pictures (n, C, H, W) in [-1, 1] that were drawn for one prompt of `split`."""

    split: str
    caption: str
    pictures: Float[Tensor, "n c h w"]


@dataclass(frozen=True)
class Grid:
    """One prompt at every guidance scale and temperature, from the same random numbers.

    pictures: (G, T, C, H, W) in [-1, 1] for the scales and temperatures in order.
    """

    caption: str
    guidance_scales: list[float]
    temperatures: list[float]
    pictures: Float[Tensor, "g t c h w"]


@dataclass(frozen=True)
class PageDrawings:
    """draws: of one prompt per split, those that were trained on last. grid: of the held-out prompt among these whose
    draws differ most, since there the settings matter."""

    draws: list[Draws]
    grid: Grid


@torch.no_grad()
def draw_for_page(pipeline: TextToImagePipeline, shown: dict[str, Shown], seed: int = 0) -> PageDrawings:
    """Draw one prompt of each split of `shown` several times, and one by guidance and temperature.

    Args:
        pipeline: the finished model.
        shown: of `vqlm.lm.evaluate.report.evaluate`.
        seed: decides the drawings.
    """
    prompts = {split: part.captions[len(part.captions) // 2] for split, part in shown.items()}
    codes = pipeline(list(prompts.values()), num_images_per_prompt=DRAWS, generator=seed).codes.flatten(1)
    pictures = decode_flat(pipeline, codes).split(DRAWS)
    draws = [Draws(split, caption, part) for (split, caption), part in zip(prompts.items(), pictures, strict=True)]
    held_out = [part for part in draws if part.split != TRAIN]
    caption = max(held_out, key=lambda part: part.pictures.var(0).mean().item()).caption
    return PageDrawings(draws, _draw_grid(pipeline, caption, seed))


def _draw_grid(pipeline: TextToImagePipeline, caption: str, seed: int) -> Grid:
    default = pipeline.sampling
    scales = sorted({*GUIDANCE_SCALES, default.guidance_scale})
    temperatures = sorted({*TEMPERATURES, default.temperature})
    codes = [
        pipeline(caption, generator=seed, guidance_scale=scale, temperature=temperature).codes.flatten(1)
        for scale in scales
        for temperature in temperatures
    ]
    cells = decode_flat(pipeline, torch.cat(codes)).unflatten(0, (len(scales), len(temperatures)))
    return Grid(caption, scales, temperatures, cells)
