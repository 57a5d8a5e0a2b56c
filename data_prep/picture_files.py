"""Picture files as pictures, damaged or not, and views of them. What becomes of a picture then is `vq`'s to say."""

import io
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError
from vqlm.data_prep.settings import MAX_PIXELS, ViewConfig
from vqlm.training.errors import UserError
from vqlm.training.extras import install_hint
from vqlm.vq import draft, scale_and_crop, to_rgb


class UnreadablePicture(ValueError):
    """Why a picture cannot be used, in words for a person."""


def decode_picture(
    image: bytes | Path, size: tuple[int, int], background: str = "white", max_pixels: int = MAX_PIXELS
) -> PILImage.Image:
    """The picture upright, RGB, transparency on `background`; its first frame; an SVG if resvg-py is there.

    `size` (height, width) is what it will be scaled to: decoding need not be finer. Raises UnreadablePicture.
    """
    with explained_picture(image, max_pixels) as picture:
        if picture is None:
            svg = image if isinstance(image, bytes) else image.read_bytes()
            return draw_svg(svg.decode(), 2 * max(size), background)
        draft(picture, size)
        return to_rgb(picture, background)


def open_picture(path: Path, background: str = "white") -> PILImage.Image:
    """A picture file at its own size, upright, RGB. Raises UserError for one that cannot be used."""
    try:
        with explained_picture(path) as picture:
            return draw_svg(path.read_text(), 512, background) if picture is None else to_rgb(picture, background)
    except UnreadablePicture as error:
        raise UserError(f"{path} cannot be used: {error}.") from None


@contextmanager
def explained_picture(image: bytes | Path, max_pixels: int = MAX_PIXELS) -> Iterator[PILImage.Image | None]:
    """The opened, not yet decoded picture; None for an SVG. Whatever goes wrong inside is an UnreadablePicture."""
    try:
        if isinstance(image, bytes) and not image or isinstance(image, Path) and not image.stat().st_size:
            raise UnreadablePicture("the file is empty (0 bytes)")
        if _is_svg(image):
            yield None
            return
        with PILImage.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
            if picture.width * picture.height > max_pixels:
                raise UnreadablePicture(
                    f"it is {picture.width}x{picture.height}, more than max_pixels {max_pixels:,}; scale it down, or "
                    "raise --max-pixels if you trust it"
                )
            yield picture
    except UnidentifiedImageError:
        raise UnreadablePicture("it is no picture in a format that Pillow reads") from None
    except PILImage.DecompressionBombError as error:
        raise UnreadablePicture(f"{error}; scale it down, or raise --max-pixels if you trust it") from None
    except UnreadablePicture:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, MemoryError) as error:  # of Pillow's readers
        raise UnreadablePicture(f"it cannot be decoded ({' '.join(str(error).split())})") from None


def make_views(
    picture: PILImage.Image, size: tuple[int, int], config: ViewConfig, key: str
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The picture and its further views, each (H, W, 3). The key alone decides them, on every machine."""
    views = [scale_and_crop(picture, size)]
    if config.views == 1:
        return views
    aspect = size[1] / size[0]
    width, height = min(picture.width, picture.height * aspect), min(picture.height, picture.width / aspect)
    for number in range(1, config.views):
        draw = random.Random(f"{key} {number}")
        share = draw.uniform(config.crop, 1)
        left, top = (draw.uniform(0, whole - share * part)
                     for whole, part in ((picture.width, width), (picture.height, height)))  # fmt: skip
        box = (left, top, left + share * width, top + share * height)
        view = picture.resize((size[1], size[0]), PILImage.Resampling.LANCZOS, box=box)
        views.append(np.asarray(ImageOps.mirror(view) if draw.random() < config.flip else view))
    return views


def _is_svg(image: bytes | Path) -> bool:
    if isinstance(image, Path):
        return image.suffix.lower() == ".svg"
    head = image[:512].lstrip()
    return head.startswith(b"<") and b"<svg" in head


def draw_svg(svg: str, width: int, background: str) -> PILImage.Image:
    """An SVG drawing in RGB, without the fonts that a machine happens to have. Raises UnreadablePicture without
    resvg-py, ValueError for no drawing."""
    try:
        import resvg_py
    except ImportError:
        raise UnreadablePicture(f"SVG drawings need resvg-py; install it: {install_hint('demo')}") from None
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=width, background=background, skip_system_fonts=True)
    return PILImage.open(io.BytesIO(bytes(drawn))).convert("RGB")
