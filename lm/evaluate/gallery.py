"""Decodes the codes of a prepared set with the image tokenizer of a model."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vqlm.data_prep.prepared_set import PreparedSet, spread
from vqlm.lm.image_codes import decode_pixel_values
from vqlm.lm.pipeline import TextToImagePipeline

PART = 256
# At most this many of each split, evenly spaced; all of a large set would take hours.
MAX_PROMPTS = 1000
MAX_GALLERY = 20_000


def decode_flat(pipeline: TextToImagePipeline, flat_codes: Tensor) -> Tensor:
    """(N, tokens_per_image) -> (N, C, H, W) in [-1, 1] on the CPU."""
    return decode_pixel_values(pipeline.image_tokenizer, pipeline.image_tokenizer.unflatten_codes(flat_codes))


@torch.no_grad()
def gallery(pipeline: TextToImagePipeline, prepared: PreparedSet, most: int = MAX_GALLERY) -> Iterator[Tensor]:
    """Reconstructions in parts (N, C, H, W): of what is trained on, and of all held-out prompts' own pictures. `most`:
    of each split."""
    for split, rows in prepared.rows.items():
        shown = prepared.pictured(split, MAX_PROMPTS) if split in prepared.held_out else rows
        chosen = shown.select(spread(len(shown), most))
        for part in prepared.code_parts(chosen, PART):
            yield decode_flat(pipeline, part)
