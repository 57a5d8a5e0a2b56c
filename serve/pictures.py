"""Pictures that come in and go out: uploads, masks, sizes, file formats."""

import io
from typing import Any

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from vqlm.data_prep.pictures.render_process import RENDERER, RenderingFailed
from vqlm.lm.picture_requests import TEXT_KEY
from vqlm.serve.errors import wrong
from vqlm.vq.fitting import has_shape, is_transparent, pad_to_shape, padding_colour
from vqlm.vq.pixels import to_rgb
from vqlm.vq.settings import Fit

Size = tuple[int, int]  # width, height
HALF = 128
ACCEPTED = ("PNG", "JPEG", "WEBP", "GIF")  # formats of uploads


def size_of(text: str, model_size: Size, is_strict: bool, max_pixels: int) -> Size:
    """The size that a request wants. Raises ApiError for one that the model's pictures cannot have."""
    if text in ("auto", f"{model_size[0]}x{model_size[1]}"):
        return model_size
    width, cross, height = text.partition("x")
    if not (cross and width.isascii() and height.isascii() and width.isdigit() and height.isdigit()):
        raise wrong("size", f"`size` must be auto or WIDTHxHEIGHT, such as 1024x1024; found {text!r:.40}.")
    if len(text) > 11 or not 0 < int(width) * int(height) <= max_pixels:
        raise wrong("size", f"`size` must have from 1 to {max_pixels:,} pixels.", "unsupported_size")
    if is_strict:
        raise wrong(
            "size", f"This model draws {model_size[0]}x{model_size[1]}; ask for that or auto.", "unsupported_size"
        )
    if int(width) * model_size[1] != int(height) * model_size[0]:
        raise wrong(
            "size",
            f"This model draws {model_size[0]}x{model_size[1]}, scaled to the same shape only; found {text}.",
            "unsupported_size",
        )  # fmt: skip
    return int(width), int(height)


def encode_picture(
    picture: Image.Image, size: Size, file_format: str, compression: int | None, text: str | None = None
) -> bytes:
    """The file of a picture, scaled to `size` by Lanczos. A PNG holds `text`."""
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    file, options = io.BytesIO(), {}
    if file_format != "png":
        options = {"quality": 95 if compression is None else compression}
    elif text is not None:
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_text(TEXT_KEY, text)
    picture.save(file, file_format, **options)
    return file.getvalue()


def read_picture(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """An uploaded picture, decoded in another process, with the transparency that it has. Raises ApiError for what is
    not one."""
    try:
        png = RENDERER.decode(data, max_pixels, ACCEPTED)
    except RenderingFailed as error:
        raise wrong(name, f"`{name}` is not a picture that can be read: {error}.", f"invalid_{name}") from None
    picture = Image.open(io.BytesIO(png), formats=["PNG"])
    picture.load()
    return picture


def prepare_edit(
    image: Image.Image, mask: Image.Image | None, size: Size, background: str, fit: Fit = "crop"
) -> tuple[Image.Image, Any]:
    """An upload and what is transparent in its mask, both brought to the model's `size` by `fit`.

    Returns:
        The picture in RGB, and a mask in L, white where to draw; None where nothing says so.

    Raises:
        ApiError: for a mask of another size than the picture, without transparency, or with nothing to draw.
    """
    if mask is None and image.mode == "RGBA":
        mask = image if image.getchannel("A").getextrema()[0] < HALF else None  # type: ignore[operator]
    rgb = to_rgb(image, background)
    shape = size[1], size[0]
    beside = None if has_shape(rgb, shape) else padding_colour(rgb, is_transparent(image), background, fit)

    def shaped(whole: Image.Image, colour: Any) -> Image.Image:
        return whole if beside is None else pad_to_shape(whole, shape, colour)

    picture = ImageOps.fit(shaped(rgb, beside), size, Image.Resampling.LANCZOS)
    if mask is None:
        return picture, None
    if mask.size != image.size:
        raise wrong(
            "mask", f"`mask` is {mask.width}x{mask.height}, `image` {image.width}x{image.height}; they must be alike.",
            "mask_size_mismatch",
        )  # fmt: skip
    if mask.mode != "RGBA":
        raise wrong("mask", "`mask` has no transparency; what is transparent in it is drawn again.", "invalid_mask")
    holes = mask.getchannel("A").point([255 if alpha < HALF else 0 for alpha in range(256)])
    holes = ImageOps.fit(shaped(holes, 0), size, Image.Resampling.BOX).point([0] + 255 * [255])
    if not holes.getbbox():
        raise wrong("mask", "`mask` is transparent nowhere: there is nothing to draw.", "invalid_mask")
    return picture, holes
