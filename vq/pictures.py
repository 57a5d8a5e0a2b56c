"""Pixel values and what people look at: uint8 tensors, PIL pictures, grids."""

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

GRID_GAP = 2


def to_pixel_values(pictures: UInt8[Tensor, "b c *shape"]) -> Float[Tensor, "b c *shape"]:
    """uint8 in [0, 255] -> fp32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def to_uint8(pixel_values: Float[Tensor, "b c *shape"]) -> UInt8[Tensor, "b c *shape"]:
    """[-1, 1] -> uint8 in [0, 255], the inverse of `to_pixel_values`."""
    return ((pixel_values.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pil(pixel_values: Float[Tensor, "b c h w"]) -> list[Image.Image]:
    """(B, C, H, W) in [-1, 1], C of 1 or 3 -> one PIL picture each."""
    arrays = to_uint8(pixel_values).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array) for array in arrays]


def picture_grid(rows: list[Float[Tensor, "n c h w"]]) -> Image.Image:
    """One picture of rows of pictures, `rows[i][j]` in row i and column j, on white."""
    cells = torch.stack(list(rows))
    cells = torch.nn.functional.pad(cells, [GRID_GAP] * 4, value=1.0)
    return to_pil(rearrange(cells, "r n c h w -> 1 c (r h) (n w)"))[0]
