"""Picture files as tensors. Knows PIL, nothing of models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from jaxtyping import Float, UInt8
from PIL import Image as PILImage
from PIL import ImageOps
from torch import Tensor

from training.errors import UserError


def to_rgb(picture: PILImage.Image, size: tuple[int, int], background: str = "white") -> PILImage.Image:
    """Upright, RGB, transparency on `background`, scaled and cropped about its centre to (height, width) `size`."""
    picture = ImageOps.exif_transpose(picture)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = PILImage.alpha_composite(PILImage.new("RGBA", picture.size, background), picture)
    if picture.mode.startswith("I"):  # 16 bits of grey, which PIL would clip at 255
        picture = picture.convert("I").point(lambda value: value / 257).convert("L")
    picture, (height, width) = picture.convert("RGB"), size
    if picture.size == (width, height):
        return picture
    return ImageOps.fit(picture, (width, height), PILImage.Resampling.LANCZOS)


def load_pictures(
    rows: Dataset, input_shape: Sequence[int]
) -> UInt8[Tensor, "n c *shape"] | Float[Tensor, "n c *shape"]:
    """All pictures of `rows` in memory, (N, 3, H, W) uint8, for an `input_shape` of (H, W).

    Rows of arrays, such as series, are given as they are, (N, C, *input_shape).
    Raises UserError naming a picture that cannot be read, or for a shape that is not theirs.
    """
    if not holds_pictures(rows):
        return _load_arrays(rows, input_shape)
    if len(input_shape) != len(("height", "width")):
        raise UserError(f"Pictures need a network.input_shape of height and width, found {list(input_shape)}.")
    height, width = input_shape
    undecoded = rows.cast_column("image", Image(decode=False))
    pictures = torch.empty(len(rows), 3, height, width, dtype=torch.uint8)
    row: dict[str, Any]
    for index, row in enumerate(undecoded):  # type: ignore[assignment]
        try:
            picture = to_rgb(Image().decode_example(row["image"]), (height, width))
        except (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError) as error:
            name = row["image"]["path"] or row["key"]
            raise UserError(
                f"The picture {name} cannot be read ({error}); repair it, or remove it and its caption."
            ) from None
        pictures[index] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return pictures


def holds_pictures(rows: Dataset) -> bool:
    """Whether the rows hold picture files, and not arrays."""
    return isinstance(rows.features["image"], Image)


def _load_arrays(rows: Dataset, input_shape: Sequence[int]) -> Tensor:
    shape = tuple(rows.features["image"].shape[1:])
    if shape != tuple(input_shape):
        raise UserError(
            f"The arrays are of shape {list(shape)} (channels not counted) and network.input_shape is "
            f"{list(input_shape)}; set network.input_shape to {list(shape)}."
        )
    # The format gives every whole number as int64.
    return torch.from_numpy(np.array(rows.with_format("numpy")["image"][:], dtype=rows.features["image"].dtype))
