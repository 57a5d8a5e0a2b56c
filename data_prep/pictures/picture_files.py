"""Opens picture files, explains those that cannot be used, and cuts views. Scaling and fitting is `vq`'s."""

import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image as PILImage, ImageOps, UnidentifiedImageError

from vqlm.data_prep.collections.worker_processes import mapped_shards
from vqlm.data_prep.pictures.file_kinds import SVG, readable_formats
from vqlm.data_prep.pictures.svg import UnsafeDrawing, draw_svg
from vqlm.data_prep.settings import MAX_PIXELS, ViewConfig
from vqlm.data_prep.sources.rows import Row, Shard, Unusable
from vqlm.training.errors import UserError
from vqlm.vq import Fit, VQVAEImageProcessor, draft, fit_rgb, scale_and_crop, to_fitted_rgb, to_rgb

# Bytes in which an SVG element must begin, after comments and a document type.
SVG_HEAD = 4096
TIFF_BITS = (10, 12, 14, 16)


class UnreadablePicture(ValueError):
    """Its text says why a picture cannot be used, for people."""


def decode_picture(
    image: bytes | Path,
    size: tuple[int, int],
    background: str = "white",
    max_pixels: int = MAX_PIXELS,
    fit: Fit = "crop",
) -> PILImage.Image:
    """The first frame of a picture, upright, RGB, transparency on `background`, padded where `fit` says so. SVG needs
    resvg-py.

    `size` (height, width) is what it will be scaled to; decoding may be as coarse. Raises UnreadablePicture.
    """
    with explained_picture(image, max_pixels) as picture:
        if picture is None:
            svg = image if isinstance(image, bytes) else image.read_bytes()
            drawing = draw_svg(svg.decode("utf-8-sig"), 2 * max(size), background, max_pixels)
            return fit_rgb(drawing, None, size, background, fit)
        _keep_orientation_only(picture)
        draft(picture, size)
        return to_fitted_rgb(_with_eight_bits(picture), size, background, fit)


def read_picture(path: Path, image_processor: VQVAEImageProcessor) -> PILImage.Image:
    """A picture file as the image tokenizer of `image_processor` learned pictures. Raises UserError for one that cannot
    be used."""
    size = image_processor.size["height"], image_processor.size["width"]
    decode = partial(decode_picture, size=size, background=image_processor.background, fit=image_processor.fit)
    return PILImage.fromarray(scale_and_crop(_apart(decode, path), size))


def open_picture(path: Path, background: str = "white") -> PILImage.Image:
    """A picture file at full size, upright, RGB. Raises UserError for a file that cannot be used."""
    return _apart(partial(_full_picture, background=background), path)


def _full_picture(path: Path, background: str) -> PILImage.Image:
    with explained_picture(path) as picture:
        if picture is None:
            return draw_svg(path.read_bytes().decode("utf-8-sig"), 512, background)
        _keep_orientation_only(picture)
        return to_rgb(_with_eight_bits(picture), background)


def _apart(decode: Callable[[Path], PILImage.Image], path: Path) -> PILImage.Image:
    """`decode(path)` in another process, which may crash. Raises UserError."""
    shard = Shard(path.name, partial(iter, [Row(str(path), path, ())]), "")
    decoded = next(mapped_shards([shard], partial(_decode_each, decode=decode), 1))[1]
    if isinstance(decoded[0], Unusable):
        raise UserError(f"{path} cannot be used: {decoded[0].reason}.")
    return decoded[0]


def _decode_each(chunk: list[Row | Unusable], decode: Callable[[Path], PILImage.Image]) -> list[Any]:
    decoded = []
    for row in chunk:
        try:
            decoded.append(row if isinstance(row, Unusable) else decode(row.image))  # type: ignore[arg-type]
        except UnreadablePicture as error:
            decoded.append(Unusable(row.key, str(error)))
    return decoded


@contextmanager
def explained_picture(image: bytes | Path, max_pixels: int = MAX_PIXELS) -> Iterator[PILImage.Image | None]:
    """The opened picture, not yet decoded, or None for an SVG. Every error inside becomes an UnreadablePicture."""
    # Pillow's limit is a global of the process, and this may be a worker.
    PILImage.MAX_IMAGE_PIXELS = max_pixels
    try:
        if isinstance(image, Path) and image.exists() and not image.is_file():  # reading a device may never end
            raise UnreadablePicture("it is not a file")
        if isinstance(image, bytes) and not image or isinstance(image, Path) and not image.stat().st_size:
            raise UnreadablePicture("the file is empty (0 bytes)")
        if _is_svg(image):
            yield None
            return
        opened = PILImage.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=readable_formats())
        with opened as picture:
            if picture.width * picture.height > max_pixels:
                raise UnreadablePicture(
                    f"it is {picture.width}x{picture.height}, more than `max_pixels` {max_pixels:,}; scale it down, or "
                    "raise `max_pixels` if you trust it"
                )
            yield picture
    except UnreadablePicture:
        raise
    except UnsafeDrawing as error:
        raise UnreadablePicture(str(error)) from None
    except UnidentifiedImageError:
        raise UnreadablePicture("it is not a picture in a format that is read") from None
    except PILImage.DecompressionBombError as error:
        raise UnreadablePicture(f"{error}; scale it down, or raise `max_pixels` if you trust it") from None
    except Exception as error:  # decoders raise nearly every type there is, of struct.error to RecursionError
        text = " ".join(str(error).split()) or type(error).__name__
        raise UnreadablePicture(f"it cannot be decoded ({text})") from None


def _keep_orientation_only(picture: PILImage.Image) -> None:
    """Many photographs have EXIF that cannot be read or written whole; only the orientation counts here."""
    if "exif" not in picture.info:
        return
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # struct.error, KeyError and others; the picture is used as it lies
        orientation = 1
    kept = PILImage.Exif()
    kept[ExifTags.Base.Orientation] = orientation if orientation in range(1, 9) else 1
    picture.info["exif"] = kept.tobytes()
    picture._exif = None  # what was read of it before


def _with_eight_bits(picture: PILImage.Image) -> PILImage.Image:
    """Floating-point and 32-bit pictures scaled from their own range to 0..255, LAB as sRGB; others as they are.

    Greys of 16 bits have a range of their own, which `to_rgb` knows. TIFF holds those of 10, 12 and 14 bits as such.
    """
    if picture.mode == "LAB":
        return _srgb_of_lab(picture)
    if picture.mode.startswith("I;16") and picture.format == "TIFF":
        values = np.asarray(picture).astype(np.float64)
        brightest = next(2**bits - 1 for bits in TIFF_BITS if values.max() < 2**bits)
        return PILImage.fromarray((values * (255 / brightest)).round().astype(np.uint8))
    if picture.mode not in ("F", "I") or picture.format in ("PPM", "PNG") and picture.mode == "I":
        return picture
    values = np.asarray(picture, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise UnreadablePicture("none of its values is a finite number")
    low, high = values[finite].min(), values[finite].max()
    scaled = (np.where(finite, values, low) - low) * (255 / (high - low) if high > low else 0.0)
    return PILImage.fromarray(scaled.round().astype(np.uint8))


def _srgb_of_lab(picture: PILImage.Image) -> PILImage.Image:
    try:
        from PIL import ImageCms
    except ImportError:
        raise UnreadablePicture("it is LAB, for which Pillow needs LittleCMS") from None
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    assert converted is not None
    return converted


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
        return image.suffix.lower() == SVG
    head = image[:SVG_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(b"<") and b"<svg" in head
