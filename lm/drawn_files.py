"""Requests -> pictures -> files: a file each in a folder, or one sheet of all. A PNG says what draws it again."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vqlm.data_prep.pictures.picture_files import open_picture, read_picture
from vqlm.lm.image_codes import decode_pixel_values
from vqlm.lm.picture_requests import TEXT_KEY, PictureRequest, text_of
from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.lm.settings import SamplingConfig
from vqlm.vq.pixels import picture_grid, to_pil

SHEET_COLUMNS = 8
SEVERAL = 1.0  # temperature; measured by benchmarks/variety.py
Drawn = tuple[PictureRequest, Float[Tensor, "c h w"]]


def with_defaults(pipeline: TextToImagePipeline, requests: Sequence[PictureRequest]) -> list[PictureRequest]:
    """The requests with all sampling settings, those of the model's folder where a request has none; but several
    pictures of one prompt have at least a temperature of `SEVERAL`, without which many of them would be alike."""
    complete = []
    for request in requests:
        sampling = pipeline.sampling.override(**request.sampling)
        sampling = for_several(sampling, request.num_images, request.temperature)
        complete.append(replace(request, **vars(sampling)))
    return complete


def for_several(sampling: SamplingConfig, num_images: int, temperature: float | None) -> SamplingConfig:
    """`sampling` for `num_images` of one prompt: at a temperature of `SEVERAL` at least, unless one was given."""
    if num_images > 1 and temperature is None and sampling.temperature < SEVERAL:
        return replace(sampling, temperature=SEVERAL)
    return sampling


def draw(pipeline: TextToImagePipeline, requests: Sequence[PictureRequest]) -> Iterator[Drawn]:
    """The pixel values in [-1, 1] of every picture with its request, in order; those of equal settings together."""
    pictures = [picture for request in requests for picture in request.one_by_one()]
    for _, group in itertools.groupby(pictures, _settings_of):
        same = list(group)
        at_once = max(1, pipeline.options.batch_size // same[0].rerank)
        for start in range(0, len(same), at_once):
            part = same[start : start + at_once]
            yield from zip(part, _draw_together(pipeline, part), strict=True)


def _settings_of(request: PictureRequest) -> PictureRequest:
    return replace(request, prompt=None, negative_prompt=None, seed=None)


def _draw_together(pipeline: TextToImagePipeline, part: list[PictureRequest]) -> Tensor:
    """`part` differs in prompts and seeds only."""
    first, prompts = part[0], [request.prompt for request in part]
    given: dict[str, Any] = first.sampling | {
        "negative_prompt": [request.negative_prompt for request in part],
        "generator": [seed for request in part for seed in request.seeds],
    }
    if first.image is None:
        output = pipeline(prompts, rerank=first.rerank, **given)
    else:
        images = [read_picture(Path(first.image), pipeline.image_tokenizer.image_processor)] * len(part)
        if first.mask is None:
            output = pipeline.complete(images, prompts, keep_rows=first.keep_rows, **given)
        else:
            output = pipeline.inpaint(images, open_picture(Path(first.mask)), prompts, **given)
    return decode_pixel_values(pipeline.image_tokenizer, output.codes)


# Files


def save_each(
    folder: Path, drawn: Iterator[Drawn], names: Sequence[str], drawn_with: Mapping[str, Any]
) -> Iterator[tuple[Path, PictureRequest]]:
    """Write each picture as soon as it is drawn; gives its file and request."""
    folder.mkdir(parents=True, exist_ok=True)
    for (request, pixel_values), name in zip(drawn, names, strict=True):
        save_picture(folder / name, to_pil(pixel_values[None])[0], [request], drawn_with)
        yield folder / name, request


def save_sheet(
    path: Path, drawn: Iterator[Drawn], requests: Sequence[PictureRequest], drawn_with: Mapping[str, Any]
) -> None:
    """Write all pictures into one file: a row per prompt if each has as many, else rows of eight."""
    pictures = torch.stack([pixel_values for _, pixel_values in drawn])
    counts = {request.num_images for request in requests}
    has_rows = len(requests) > 1 and len(counts) == 1 and counts != {1}
    columns = min(len(pictures), counts.pop() if has_rows else SHEET_COLUMNS)
    missing = -len(pictures) % columns
    padded = torch.cat([pictures, pictures.new_ones(missing, *pictures.shape[1:])])
    sheet = to_pil(pictures)[0] if len(pictures) == 1 else picture_grid(list(padded.split(columns)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(path, sheet, requests, drawn_with)


def save_picture(
    path: Path, picture: Image.Image, requests: Sequence[PictureRequest], drawn_with: Mapping[str, Any]
) -> None:
    """Write a picture under a temporary name, then rename; a PNG says how it was drawn."""
    info = PngInfo()
    info.add_text(TEXT_KEY, text_of(requests, drawn_with))
    temporary = path.with_name(f".{path.name}.tmp")
    kind = Image.registered_extensions()[path.suffix.lower()]
    picture.save(temporary, kind, **({"pnginfo": info} if kind == "PNG" else {}))
    os.replace(temporary, path)
