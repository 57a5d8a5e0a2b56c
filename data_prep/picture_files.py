"""Opens picture files, explains those that cannot be used, and cuts views. Scaling and cropping is `vq`'s."""

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
    """Its text says why a picture cannot be used, for people."""


def decode_picture(
    image: bytes | Path, size: tuple[int, int], background: str = "white", max_pixels: int = MAX_PIXELS
) -> PILImage.Image:
    """The first frame of a picture, upright, RGB, transparency on `background`. SVG needs resvg-py.

    `size` (height, width) is what it will be scaled to; decoding may be as coarse. Raises UnreadablePicture.
    """
    with explained_picture(image, max_pixels) as picture:
        if picture is None:
            svg = image if isinstance(image, bytes) else image.read_bytes()
            return draw_svg(svg.decode(), 2 * max(size), background)
        draft(picture, size)
        return to_rgb(picture, background)


def open_picture(path: Path, background: str = "white") -> PILImage.Image:
    """A picture file at full size, upright, RGB. Raises UserError for a file that cannot be used."""
    try:
        with explained_picture(path) as picture:
            return draw_svg(path.read_text(), 512, background) if picture is None else to_rgb(picture, background)
    except UnreadablePicture as error:
        raise UserError(f"{path} cannot be used: {error}.") from None


@contextmanager
def explained_picture(image: bytes | Path, max_pixels: int = MAX_PIXELS) -> Iterator[PILImage.Image | None]:
    """The opened picture, not yet decoded, or None for an SVG. Every error inside becomes an UnreadablePicture."""
    try:
        if isinstance(image, bytes) and not image or isinstance(image, Path) and not image.stat().st_size:
            raise UnreadablePicture("the file is empty (0 bytes)")
        if _is_svg(image):
            yield None
            return
        with PILImage.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
            if picture.width * picture.height > max_pixels:
                raise UnreadablePicture(
                    f"it is {picture.width}x{picture.height}, more than `max_pixels` {max_pixels:,}; scale it down, or "
                    "raise `max_pixels` if you trust it"
                )
            yield picture
    except UnidentifiedImageError:
        raise UnreadablePicture("it is not a picture in a format that is read") from None
    except PILImage.DecompressionBombError as error:
        raise UnreadablePicture(f"{error}; scale it down, or raise `max_pixels` if you trust it") from None
    except UnreadablePicture:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, MemoryError) as error:  # of Pillow's readers
        raise UnreadablePicture(f"it cannot be decoded ({' '.join(str(error).split())})") from None


def make_views(
    picture: PILImage.Image, size: tuple[int, int], config: ViewConfig, key: str
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The picture and its further views, each (H, W, 3). Views depend on the key alone, the same on every machine."""
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
    """Render an SVG in RGB, without the fonts of this machine. Raises UnreadablePicture if resvg-py is missing and
    ValueError for text that is not an SVG."""
    try:
        import resvg_py
    except ImportError:
        raise UnreadablePicture(f"SVG drawings need resvg-py; install it: {install_hint('demo')}") from None
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=width, background=background, skip_system_fonts=True)
    return PILImage.open(io.BytesIO(bytes(drawn))).convert("RGB")
