"""Pictures <-> the flat codes that a language model reads and draws, in parts of a batch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vqlm.training.errors import UserError
from vqlm.vq import VQVAE, to_pil

PART = 64

Picture = Image.Image | np.ndarray | Path | str
Pictures = Picture | Sequence[Picture] | Tensor


@torch.no_grad()
def encode_pictures(image_tokenizer: VQVAE, images: Pictures) -> Int[Tensor, "b n"]:
    """Pictures -> flat codes, on the device of the image tokenizer.

    Floating point tensors (B, C, *shape) are in [-1, 1]; anything else is prepared as in training, see
    `vqlm.VQVAEImageProcessor`. Raises UserError for another shape, or for what is not a picture.
    """
    shape = tuple(image_tokenizer.config.network.input_shape)
    if isinstance(images, Tensor) and images.is_floating_point():
        pixel_values = images
    else:
        pixel_values: Tensor = image_tokenizer.image_processor(images, return_tensors="pt")["pixel_values"]
    if pixel_values.ndim != len(shape) + 2 or tuple(pixel_values.shape[2:]) != shape:
        raise UserError(f"Pictures must be (B, C, {', '.join(map(str, shape))}), found {tuple(pixel_values.shape)}.")
    parts = [image_tokenizer.encode(part.to(image_tokenizer.device)) for part in pixel_values.split(PART)]
    return image_tokenizer.flatten_codes(torch.cat(parts))


def decode_pictures(image_tokenizer: VQVAE, codes: Int[Tensor, "b *code_shape"]) -> list[Image.Image] | list[Tensor]:
    """Codes (B, *code_shape) -> PIL pictures, or tensors (C, *shape) of series and volumes."""
    pixel_values = decode_pixel_values(image_tokenizer, codes)
    return to_pil(pixel_values) if pixel_values.ndim == 4 else list(pixel_values)


@torch.no_grad()
def decode_pixel_values(image_tokenizer: VQVAE, codes: Int[Tensor, "b *code_shape"]) -> Float[Tensor, "b c *shape"]:
    """Codes -> pixel values in [-1, 1], on the CPU. A picture is the same alone and in any batch."""

    def decode(part: Tensor) -> Tensor:
        # oneDNN adds in another order for a batch of one: the last bits differ, and with them one pixel in 10,000.
        pair = part.repeat_interleave(2, 0) if len(part) == 1 else part
        return image_tokenizer.decode_codes(pair.to(image_tokenizer.device))[: len(part)].cpu()

    return torch.cat([decode(part) for part in codes.split(PART)])
