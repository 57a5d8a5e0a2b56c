"""Pixel values and what people look at: PIL pictures of any mode and size, uint8 tensors, grids."""

import torch
from einops import rearrange
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageOps
from torch import Tensor

GRID_GAP = 2
# Large JPEGs are decoded at a fraction of their size, as long as it stays this many times the size that is wanted.
DRAFT = 2
ORIENTATION = 0x0112  # in EXIF
EXIF_IN_INFO = ("JPEG", "WEBP")  # to look there is quicker


def draft(picture: Image.Image, size: tuple[int, int]) -> None:
    """Have an opened, not yet decoded JPEG that is much larger than (height, width) `size` decoded no finer than it
    needs to be. Other pictures stay as they are."""
    if min(picture.size) > 2 * DRAFT * max(size):
        picture.draft("RGB", (DRAFT * max(size), DRAFT * max(size)))


def to_rgb(picture: Image.Image, background: str = "white") -> Image.Image:
    """Upright, RGB, transparency on `background`."""
    may_be_turned = picture.format not in EXIF_IN_INFO or "exif" in picture.info
    if may_be_turned and picture.getexif().get(ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "RGB" and "transparency" not in picture.info:
        picture.load()
        return picture
    if {"A", "a"} & set(picture.getbands()) or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, background), picture)
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
        picture = picture.convert("I").point(lambda value: value / 257).convert("L")
    return picture.convert("RGB")


def to_pixel_values(pictures: UInt8[Tensor, "b c *shape"] | Float[Tensor, "b c *shape"]) -> Float[Tensor, "b c *shape"]:
    """uint8 in [0, 255] -> fp32 in [-1, 1]. Floating point values, such as a series has, are in [-1, 1] already."""
    return pictures.float() if pictures.is_floating_point() else pictures.float() / 127.5 - 1


def to_uint8(pixel_values: Float[Tensor, "b c *shape"]) -> UInt8[Tensor, "b c *shape"]:
    """[-1, 1] -> uint8 in [0, 255], the inverse of `to_pixel_values`."""
    return ((pixel_values.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_pil(pixel_values: Float[Tensor, "b c h w"]) -> list[Image.Image]:
    """(B, C, H, W) in [-1, 1] -> one PIL picture each. One channel is grey, three are colours; of other numbers the
    first three are shown as colours, of two their mean."""
    if pixel_values.shape[1] == 2:
        pixel_values = pixel_values.mean(1, keepdim=True)
    shown = pixel_values if pixel_values.shape[1] == 1 else pixel_values[:, :3]
    arrays = to_uint8(shown).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array) for array in arrays]


def crop_to_multiple(pictures: Shaped[Tensor, "b c *shape"], factor: int) -> Shaped[Tensor, "b c *cropped"]:
    """The middle, each side the largest multiple of `factor` in it."""
    for axis, size in enumerate(pictures.shape[2:], start=2):
        kept = size // factor * factor
        pictures = pictures.narrow(axis, (size - kept) // 2, kept)
    return pictures


def pad_to_multiple(pictures: Shaped[Tensor, "b c *shape"], factor: int) -> Shaped[Tensor, "b c *padded"]:
    """Each side up to the next multiple of `factor`, the last values repeated."""
    for axis, size in enumerate(pictures.shape[2:], start=2):
        if size % factor:
            index = torch.arange(-(-size // factor) * factor, device=pictures.device).clamp(max=size - 1)
            pictures = pictures.index_select(axis, index)
    return pictures


def picture_grid(rows: list[Float[Tensor, "n c h w"]]) -> Image.Image:
    """One picture of rows of pictures, `rows[i][j]` in row i and column j, on white."""
    cells = torch.stack(list(rows))
    cells = torch.nn.functional.pad(cells, [GRID_GAP] * 4, value=1.0)
    return to_pil(rearrange(cells, "r n c h w -> 1 c (r h) (n w)"))[0]
