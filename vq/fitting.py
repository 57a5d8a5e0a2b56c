"""How a picture of any shape becomes one of the model's shape: cropped to its middle, or padded so that all shows.

`auto` decides per picture. A picture of the model's shape needs neither. One with transparent pixels is padded with the
background on which it is laid; one with a border of one colour, with that colour; the others, photographs, are cropped.

`to_fitted_rgb` pads; `scale_and_crop` crops whatever is left to crop.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from vqlm.vq.pixels import to_rgb
from vqlm.vq.settings import Fit

OPAQUE = 250  # of 255: a pixel with less is transparent
# A border is of one colour if so much of all four edges lies so near (of 255) to their median colour.
FLAT_SHARE, FLAT_DISTANCE = 0.95, 16
# A padded picture has at most so many times the model's width: a long and thin one would fill the memory.
FINEST = 4


def to_fitted_rgb(
    picture: Image.Image, size: tuple[int, int], background: str = "white", fit: Fit = "crop"
) -> Image.Image:
    """`to_rgb`, and padded to the shape of (height, width) `size` where `fit` says so: `scale_and_crop` then loses
    nothing of it."""
    return fit_rgb(to_rgb(picture, background), picture, size, background, fit)


def fit_rgb(
    rgb: Image.Image, original: Image.Image | None, size: tuple[int, int], background: str, fit: Fit
) -> Image.Image:
    """As `to_fitted_rgb` of a picture that is in RGB already. `original` has its transparency; None for a drawing."""
    if fit == "crop" or has_shape(rgb, size):
        return rgb
    colour = padding_colour(rgb, original is None or is_transparent(original), background, fit)
    return rgb if colour is None else pad_to_shape(rgb, size, colour)


def scale_and_crop(picture: Image.Image, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB picture, scaled and cropped about its centre to (height, width) `size`."""
    height, width = size
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def has_shape(picture: Image.Image, size: tuple[int, int]) -> bool:
    """Whether the picture has the proportions of (height, width) `size`, as near as whole pixels allow."""
    return _canvas(picture, size) == picture.size


def padding_colour(
    rgb: Image.Image, is_transparent: bool, background: str, fit: Fit
) -> str | tuple[int, int, int] | None:
    """The colour beside a picture of another shape than the model's; None where it is cropped instead."""
    if fit == "crop":
        return None
    if is_transparent:
        return background
    border = border_colour(rgb)
    if border is None:
        return background if fit == "pad" else None
    # Of a picture that is all of one colour, such as a letter I that fills its frame, its shape should show.
    return background if _is_all_of(rgb, border) else border


def is_transparent(picture: Image.Image) -> bool:
    """Whether any pixel of a decoded picture of any mode is transparent."""
    if not picture.has_transparency_data:
        return False
    lowest, _ = picture.convert("RGBA").getchannel("A").getextrema()
    return lowest < OPAQUE  # type: ignore[operator]


def border_colour(rgb: Image.Image) -> tuple[int, int, int] | None:
    """The colour that runs along all four edges of an RGB picture; None where there is none."""
    pixels = np.asarray(rgb)
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(np.int16)
    median = np.median(edges, axis=0)
    if (np.abs(edges - median).max(axis=1) <= FLAT_DISTANCE).mean() < FLAT_SHARE:
        return None
    red, green, blue = (int(value) for value in median)
    return red, green, blue


def _is_all_of(rgb: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(np.asarray(rgb).astype(np.int16) - colour) <= FLAT_DISTANCE).all())


def pad_to_shape(picture: Image.Image, size: tuple[int, int], colour: int | str | tuple[int, int, int]) -> Image.Image:
    """A picture of any mode in the middle of the smallest canvas that has the proportions of (height, width) `size`.

    One that is much larger than `size` is scaled down, by the shape alone: a mask of the same size ends in the same
    place.
    """
    canvas, (height, width) = _canvas(picture, size), size
    if canvas[0] > FINEST * width:
        canvas = FINEST * width, FINEST * height
        ratio = min(canvas[0] / picture.width, canvas[1] / picture.height)
        inside = (max(1, round(side * ratio)) for side in picture.size)
        picture = picture.resize((next(inside), next(inside)), Image.Resampling.LANCZOS)
    padded = Image.new(picture.mode, canvas, colour)
    padded.paste(picture, ((canvas[0] - picture.width) // 2, (canvas[1] - picture.height) // 2))
    return padded


def _canvas(picture: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the smallest canvas of the proportions of `size` around a picture."""
    (height, width), (wide, high) = size, picture.size
    if wide * height >= high * width:
        return wide, max(high, wide * height // width)
    return max(wide, high * width // height), high
