"""Uploads: decoded as they are, in another process, which may crash or never end."""

import io
import signal

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from vqlm.data_prep.pictures import render_process
from vqlm.data_prep.pictures.render_process import RENDERER, RenderProcess
from vqlm.serve.errors import ApiError
from vqlm.serve.pictures import read_picture

VALUES = np.arange(12 * 10 * 4, dtype=np.uint16).reshape(12, 10, 4)


def file_of(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


RGBA = Image.fromarray((VALUES % 256).astype(np.uint8))
PALETTE = RGBA.convert("RGB").quantize(16)
PICTURES = {
    "RGB": file_of(RGBA.convert("RGB")),
    "RGBA": file_of(RGBA),
    "L": file_of(RGBA.convert("L")),
    "LA": file_of(RGBA.convert("LA")),
    "P": file_of(PALETTE),
    "P with transparency": file_of(PALETTE, transparency=3),
    "1": file_of(RGBA.convert("1")),
    "I;16": file_of(Image.fromarray(VALUES[..., 0] * 100)),
    "JPEG": file_of(RGBA.convert("RGB"), "JPEG"),
    "WebP": file_of(RGBA, "WEBP", lossless=True),
    "GIF": file_of(PALETTE, "GIF"),
}


def refusal(data: bytes, max_pixels: int = 10**6) -> str:
    with pytest.raises(ApiError) as caught:
        read_picture(data, "image", max_pixels)
    assert (caught.value.status, caught.value.body["error"]["code"]) == (400, "invalid_image")
    return caught.value.body["error"]["message"]


@pytest.mark.parametrize("name", PICTURES)
def test_the_pixels_are_those_of_the_file(name):
    with Image.open(io.BytesIO(PICTURES[name])) as opened:
        has_alpha = "A" in opened.getbands() or "transparency" in opened.info
        expected = opened.convert("RGBA") if has_alpha else opened.copy()
    picture = read_picture(PICTURES[name], "image", 10**6)
    assert (picture.mode, picture.size) == (expected.mode, (10, 12))
    assert np.array_equal(np.asarray(picture.convert("RGBA")), np.asarray(expected.convert("RGBA")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = file_of(RGBA.convert("RGB"), "JPEG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(read_picture(data, "image", 10**6)), np.asarray(expected))


def test_damaged_exif_is_of_no_importance():
    data = file_of(RGBA.convert("RGB"), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_picture(data, "image", 10**6).size == (10, 12)


def test_cmyk_becomes_rgb():
    assert read_picture(file_of(Image.new("CMYK", (4, 4)), "JPEG"), "image", 100).mode == "RGB"


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(kind):
    assert "it is none of PNG, JPEG, WEBP, GIF" in refusal(file_of(RGBA.convert("RGB"), kind))


def test_what_is_no_picture():
    assert (
        "it is none of" in refusal(b"") == refusal(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == refusal(b"x" * 99)
    )
    assert "truncated" in refusal(PICTURES["JPEG"][:-200]).lower()
    assert "it is 10x12, more than 119 pixels" in refusal(PICTURES["RGB"], 119)
    assert "it has more than 50 pixels" in refusal(PICTURES["RGB"], 50)
    assert read_picture(PICTURES["RGB"], "image", 120).size == (10, 12)


def test_a_decoder_that_crashes_costs_one_upload(monkeypatch):
    def crash(process, request):
        process.send_signal(signal.SIGSEGV)
        process.wait()
        return answer(process, request)

    answer = RenderProcess._answer
    monkeypatch.setattr(RENDERER, "_answer", crash)
    assert refusal(PICTURES["RGB"]) == "`image` is not a picture that can be read: its decoder crashed on it."
    monkeypatch.undo()
    assert read_picture(PICTURES["RGB"], "image", 120).size == (10, 12)


def test_a_decoder_that_never_ends(monkeypatch):
    read_picture(PICTURES["RGB"], "image", 120)
    monkeypatch.setattr(render_process, "SECONDS", 0.1)
    RENDERER._process.send_signal(signal.SIGSTOP)
    assert "it takes longer than 0.1 seconds to decode" in refusal(PICTURES["RGB"])
    monkeypatch.undo()
    assert read_picture(PICTURES["RGB"], "image", 120).size == (10, 12)
