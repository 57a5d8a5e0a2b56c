"""Picture files as RGB tensors: transparency, grey, rotation, cropping, files that cannot be read."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vqlm.data_prep.pictures.picture_files import UnreadablePicture, decode_picture, make_views
from vqlm.data_prep.settings import ViewConfig
from vqlm.training.errors import UserError
from vqlm.vq import scale_and_crop, to_rgb

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION, ROTATED = 0x0112, 6  # EXIF: the first column is shown at the top


def pixels_of(picture: Image.Image) -> list[list[tuple[int, ...]]]:
    return [[tuple(pixel) for pixel in row] for row in np.array(picture).tolist()]


def from_pixels(*rows: list[tuple[int, ...]]) -> Image.Image:
    return Image.fromarray(np.array(rows, dtype=np.uint8))


def test_a_transparent_colour_of_a_palette_becomes_white():
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, *GREEN])
    picture.putdata([0, 1])
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=1)
    with Image.open(file) as reopened:
        assert reopened.mode == "P"
        assert pixels_of(to_rgb(reopened)) == [[RED, WHITE]]


def test_half_transparent_is_mixed_with_the_background():
    picture = from_pixels([(255, 0, 0, 255), (0, 0, 0, 0), (255, 0, 0, 128)])
    assert pixels_of(to_rgb(picture)) == [[RED, WHITE, (255, 127, 127)]]
    assert pixels_of(to_rgb(picture, background="blue")) == [[RED, BLUE, (128, 0, 127)]]


def test_grey_has_three_equal_channels():
    picture = Image.fromarray(np.array([[0, 100, 255]], dtype=np.uint8))
    assert pixels_of(to_rgb(picture)) == [[(0, 0, 0), (100, 100, 100), WHITE]]


def test_grey_of_16_bits_keeps_its_brightness():
    picture = Image.fromarray(np.array([[0, 65535, 128 * 257]], dtype=np.uint16))
    assert picture.mode.startswith("I;16")
    assert pixels_of(to_rgb(picture)) == [[(0, 0, 0), WHITE, (128, 128, 128)]]


def test_a_picture_of_the_right_size_is_untouched():
    picture = from_pixels([RED, GREEN, BLUE], [BLUE, RED, WHITE])
    assert pixels_of(scale_and_crop(picture, (2, 3))) == [[RED, GREEN, BLUE], [BLUE, RED, WHITE]]


def test_a_wide_picture_keeps_its_middle():
    row = [RED, RED, GREEN, GREEN, BLUE, BLUE]
    assert pixels_of(scale_and_crop(from_pixels(row, row), (2, 2))) == [[GREEN, GREEN], [GREEN, GREEN]]


def test_a_tall_picture_keeps_its_middle():
    picture = from_pixels([RED, RED], [GREEN, BLUE], [GREEN, BLUE], [RED, RED])
    assert pixels_of(scale_and_crop(picture, (2, 2))) == [[GREEN, BLUE], [GREEN, BLUE]]


def test_a_larger_picture_is_scaled():
    assert pixels_of(scale_and_crop(Image.new("RGB", (40, 60), RED), (3, 2))) == [[RED, RED]] * 3


def test_a_rotated_photograph_is_shown_upright(tmp_path):
    picture = from_pixels([RED, BLUE])
    exif = Image.Exif()
    exif[ORIENTATION] = ROTATED
    picture.save(tmp_path / "photo.png", exif=exif)
    with Image.open(tmp_path / "photo.png") as reopened:
        assert reopened.size == (2, 1)
        assert pixels_of(to_rgb(reopened)) == [[RED], [BLUE]]
    assert pixels_of(decode_picture(tmp_path / "photo.png", (2, 1))) == [[RED], [BLUE]]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "PNG"])
def test_a_large_rotated_photograph_is_turned_after_its_quick_decoding(kind):
    """Left half red, right half blue; its first column is shown at the top."""
    picture = Image.new("RGB", (640, 400), RED)
    picture.paste(BLUE, (320, 0, 640, 400))
    exif = Image.Exif()
    exif[ORIENTATION] = ROTATED
    upright = decode_picture(as_bytes(picture, kind, exif=exif), (16, 16))
    assert upright.height > upright.width
    pixels = np.asarray(upright).astype(int)
    assert pixels[5, 5, 0] > 240 > 20 > pixels[5, 5, 2]
    assert pixels[-5, 5, 2] > 240 > 20 > pixels[-5, 5, 0]


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size():
    assert max(decode_picture(as_bytes(Image.new("RGB", (1600, 1200)), "JPEG"), (64, 64)).size) <= 400


def as_bytes(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("CMYK", (0, 255, 255, 0), "JPEG", RED),
        ("L", 100, "JPEG", (100, 100, 100)),
        ("LA", (100, 0), "PNG", WHITE),
        ("LA", (100, 255), "PNG", (100, 100, 100)),
        ("RGBA", (0, 0, 255, 0), "WEBP", WHITE),
        ("1", 1, "PNG", WHITE),
        ("P", 0, "GIF", (0, 0, 0)),
    ],
)
def test_modes(mode, colour, kind, expected):
    decoded = decode_picture(as_bytes(Image.new(mode, (8, 8), colour), kind), (8, 8))
    assert decoded.mode == "RGB"
    assert np.abs(np.asarray(decoded)[4, 4].astype(int) - expected).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    content = as_bytes(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(np.asarray(decode_picture(content, (8, 8)))[4, 4].astype(int) - RED).max() <= 3


SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><rect width="5" height="10" fill="red"/></svg>'


@pytest.mark.parametrize("is_file", [True, False])
def test_an_svg_drawing_on_its_background(tmp_path, is_file):
    (tmp_path / "x.svg").write_text(SVG)
    drawn = decode_picture(tmp_path / "x.svg" if is_file else SVG.encode(), (16, 16), "blue")
    assert drawn.getpixel((1, 8)) == RED
    assert drawn.getpixel((drawn.width - 2, 8)) == BLUE


# What cannot be used


def test_text_named_as_a_picture(tmp_path):
    (tmp_path / "bad.png").write_text("not a picture")
    with pytest.raises(UnreadablePicture, match="not a picture in a format that is read"):
        decode_picture(tmp_path / "bad.png", (2, 2))


@pytest.mark.parametrize("is_file", [True, False])
def test_an_empty_file(tmp_path, is_file):
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UnreadablePicture, match=r"the file is empty \(0 bytes\)"):
        decode_picture(tmp_path / "empty.png" if is_file else b"", (2, 2))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_a_truncated_picture(kind, share):
    noise = torch.randint(256, (16, 16, 3), dtype=torch.uint8)
    whole = as_bytes(Image.fromarray(noise.numpy()), kind)
    with pytest.raises(UnreadablePicture, match="cannot be decoded|not a picture in a format"):
        decode_picture(whole[: int(share * len(whole))], (16, 16))


def test_a_picture_that_would_fill_the_memory_is_refused_with_its_size():
    bomb = as_bytes(Image.new("1", (3000, 2000)))
    assert len(bomb) < 3000
    with pytest.raises(
        UnreadablePicture, match="it is 3000x2000, more than `max_pixels` 5,999,999; .* raise `max_pixels`"
    ):
        decode_picture(bomb, (8, 8), max_pixels=5_999_999)
    assert decode_picture(bomb, (8, 8), max_pixels=6_000_000).size == (3000, 2000)


def test_a_broken_svg():
    with pytest.raises(UnreadablePicture, match="cannot be decoded"):
        decode_picture(b"<svg <", (8, 8))


# Views


@pytest.fixture
def photograph() -> Image.Image:
    return Image.fromarray(torch.randint(256, (24, 30, 3), dtype=torch.uint8).numpy())


def test_the_first_view_is_the_picture_and_the_key_decides_the_others(photograph):
    config = ViewConfig(views=3, flip=0.5, crop=0.6)
    views = make_views(photograph, (8, 12), config, "cat.png")
    assert [view.shape for view in views] == [(8, 12, 3)] * 3
    np.testing.assert_array_equal(views[0], scale_and_crop(photograph, (8, 12)))
    assert not np.array_equal(views[1], views[0])
    assert not np.array_equal(views[1], views[2])
    np.testing.assert_array_equal(views, make_views(photograph, (8, 12), config, "cat.png"))
    assert not np.array_equal(views[1], make_views(photograph, (8, 12), config, "dog.png")[1])


def test_a_flip_alone_mirrors(photograph):
    square = photograph.crop((0, 0, 24, 24))
    plain, mirrored = make_views(square, (24, 24), ViewConfig(views=2, flip=1.0), "a")
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 0}, "`views` must be at least 1, the picture itself; found 0"),
        ({"views": 2}, "2 views are all alike without"),
        ({"views": 2, "flip": 1.5}, r"`flip` must lie in \[0, 1\]"),
        ({"views": 2, "crop": 0.0}, r"`crop` in \(0, 1\], found 0.0 and 0.0"),
    ],
)
def test_views_that_make_no_sense(settings, message):
    with pytest.raises(UserError, match=message):
        ViewConfig(**settings)


# Files from strangers


@pytest.mark.parametrize("name", ["x.png", "x.eps", "x.jpg"])
def test_postscript_starts_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n")
    with pytest.raises(UnreadablePicture, match="not a picture in a format that is read"):
        decode_picture(tmp_path / name, (8, 8))


def test_a_device_is_not_read(tmp_path):
    (tmp_path / "x.png").symlink_to("/dev/zero")
    with pytest.raises(UnreadablePicture, match=r"the file is empty|it is not a file"):
        decode_picture(tmp_path / "x.png", (8, 8))


def test_a_name_with_nul():
    with pytest.raises(UnreadablePicture, match="cannot be decoded"):
        decode_picture(Path("a\0.png"), (8, 8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photograph_with_damaged_exif_is_used_as_it_lies(kind):
    exif = Image.Exif()
    exif[ORIENTATION] = ROTATED
    exif[0x010E] = "a description that is longer than four bytes"
    whole = as_bytes(Image.new("RGB", (16, 8), RED), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    start, length = whole.index(exif.tobytes().removeprefix(b"Exif\0\0")), len(exif.tobytes()) - 6
    for place in range(start, start + length):
        for byte in (0, 0xFF):
            content = whole[:place] + bytes([byte]) + whole[place + 1 :]
            if kind == "PNG":
                content = with_checksum(content, start)
            assert decode_picture(content, (8, 8)).size in ((16, 8), (8, 16))


def with_checksum(content: bytes, start: int) -> bytes:
    """A PNG with the right checksum of the chunk whose content begins at `start`."""
    end = start + int.from_bytes(content[start - 8 : start - 4], "big")
    return content[:end] + zlib.crc32(content[start - 4 : end]).to_bytes(4, "big") + content[end + 4 :]


@pytest.mark.parametrize("error", [RecursionError, OverflowError, KeyError, AssertionError, MemoryError, struct.error])
def test_whatever_a_decoder_raises_is_a_reason(monkeypatch, error):
    def fail(*_, **__):
        raise error("inside")

    monkeypatch.setattr("vqlm.data_prep.pictures.picture_files.to_fitted_rgb", fail)
    with pytest.raises(UnreadablePicture, match="cannot be decoded .*inside"):
        decode_picture(as_bytes(Image.new("RGB", (8, 8))), (8, 8))


def test_the_limit_of_a_worker_is_that_of_the_collection(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow raises at twice its limit
    assert decode_picture(as_bytes(Image.new("1", (30, 20))), (8, 8), max_pixels=600).size == (30, 20)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (np.array([[0.25, 0.5, 0.75]], np.float32), "TIFF", [0, 128, 255]),
        (np.array([[-1000.0, 0.0, 3000.0]], np.float32), "TIFF", [0, 64, 255]),
        (np.array([[0, 10**8, 2 * 10**8]], np.int32), "TIFF", [0, 128, 255]),
        (np.array([[np.nan, 1.0, 3.0]], np.float32), "TIFF", [0, 0, 255]),
        (np.array([[0, 65535, 128 * 257]], np.uint16), "PNG", [0, 255, 128]),
        (np.array([[0, 6000, 3000]], np.uint16), "PNG", [0, 23, 12]),  # 16 bits have a range of their own
    ],
)
def test_floating_point_and_32_bits_are_scaled_by_their_range(values, kind, expected):
    decoded = decode_picture(as_bytes(Image.fromarray(values), kind), values.shape)
    assert np.abs(np.asarray(decoded)[0].astype(int) - np.array(expected)[:, None]).max() <= 1


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_greys_of_a_tiff_with_fewer_than_16_bits(bits):
    most = 2**bits - 1
    values = np.array([[0, most // 2, most]], dtype=np.uint16).repeat(2, 0)
    decoded = np.asarray(decode_picture(as_bytes(Image.fromarray(values), "TIFF"), values.shape))
    assert np.abs(decoded[0, :, 0].astype(int) - [0, 127, 255]).max() <= 1
    png = np.asarray(decode_picture(as_bytes(Image.fromarray(values), "PNG"), values.shape))
    assert abs(int(png[0, 2, 0]) - most / 257) <= 1


def test_lab_becomes_srgb():
    red = Image.new("LAB", (4, 4), (136, 208, 195))  # L 53%, a 80, b 67
    decoded = np.asarray(decode_picture(as_bytes(red, "TIFF"), (4, 4)))
    assert np.abs(decoded[1, 1].astype(int) - [255, 0, 0]).max() <= 12


def test_every_mode_that_a_format_holds_is_read():
    modes = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B")
    read, unread = set(), {}
    for kind in ("TIFF", "PNG", "WEBP", "GIF", "BMP", "TGA", "PPM", "JPEG2000", "ICO", "AVIF"):
        for mode in modes:
            try:
                content = as_bytes(Image.new(mode, (8, 8)), kind)
            except Exception:  # Pillow does not write this pair
                continue
            try:
                decoded = decode_picture(content, (8, 8))
            except UnreadablePicture as error:
                unread[kind, mode] = str(error)
                continue
            assert (decoded.mode, decoded.size) == ("RGB", (8, 8))
            read.add(mode)
    assert unread == {}
    assert read >= {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"}


def test_no_finite_value():
    with pytest.raises(UnreadablePicture, match="none of its values is a finite number"):
        decode_picture(as_bytes(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), (2, 2))
