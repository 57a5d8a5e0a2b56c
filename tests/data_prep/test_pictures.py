"""Picture files as RGB tensors: transparency, grey, rotation, cropping, files that cannot be read."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from data_prep.pictures import load_pictures, to_rgb
from training.errors import UserError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION, ROTATED = 0x0112, 6  # EXIF: the first column is shown at the top


def pixels_of(picture: Image.Image) -> list[list[tuple[int, ...]]]:
    return [[tuple(pixel) for pixel in row] for row in np.array(picture).tolist()]


def from_pixels(*rows: list[tuple[int, ...]]) -> Image.Image:
    return Image.fromarray(np.array(rows, dtype=np.uint8))


def rows_of(*paths: Path) -> Dataset:
    columns = {"image": [str(path) for path in paths], "key": [path.name for path in paths]}
    return Dataset.from_dict(columns).cast_column("image", datasets.Image())


def test_a_transparent_colour_of_a_palette_becomes_white():
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, *GREEN])
    picture.putdata([0, 1])
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=1)
    with Image.open(file) as reopened:
        assert reopened.mode == "P"
        assert pixels_of(to_rgb(reopened, (1, 2))) == [[RED, WHITE]]


def test_half_transparent_is_mixed_with_the_background():
    picture = from_pixels([(255, 0, 0, 255), (0, 0, 0, 0), (255, 0, 0, 128)])
    assert pixels_of(to_rgb(picture, (1, 3))) == [[RED, WHITE, (255, 127, 127)]]
    assert pixels_of(to_rgb(picture, (1, 3), background="blue")) == [[RED, BLUE, (128, 0, 127)]]


def test_grey_has_three_equal_channels():
    picture = Image.fromarray(np.array([[0, 100, 255]], dtype=np.uint8))
    assert pixels_of(to_rgb(picture, (1, 3))) == [[(0, 0, 0), (100, 100, 100), WHITE]]


def test_grey_of_16_bits_keeps_its_brightness():
    picture = Image.fromarray(np.array([[0, 65535, 128 * 257]], dtype=np.uint16))
    assert picture.mode.startswith("I;16")
    assert pixels_of(to_rgb(picture, (1, 3))) == [[(0, 0, 0), WHITE, (128, 128, 128)]]


def test_a_picture_of_the_right_size_is_untouched():
    picture = from_pixels([RED, GREEN, BLUE], [BLUE, RED, WHITE])
    assert pixels_of(to_rgb(picture, (2, 3))) == [[RED, GREEN, BLUE], [BLUE, RED, WHITE]]


def test_a_wide_picture_keeps_its_middle():
    row = [RED, RED, GREEN, GREEN, BLUE, BLUE]
    assert pixels_of(to_rgb(from_pixels(row, row), (2, 2))) == [[GREEN, GREEN], [GREEN, GREEN]]


def test_a_tall_picture_keeps_its_middle():
    picture = from_pixels([RED, RED], [GREEN, BLUE], [GREEN, BLUE], [RED, RED])
    assert pixels_of(to_rgb(picture, (2, 2))) == [[GREEN, BLUE], [GREEN, BLUE]]


def test_a_larger_picture_is_scaled():
    assert pixels_of(to_rgb(Image.new("RGB", (40, 60), RED), (3, 2))) == [[RED, RED]] * 3


def test_a_rotated_photograph_is_shown_upright(tmp_path):
    picture = from_pixels([RED, BLUE])
    exif = Image.Exif()
    exif[ORIENTATION] = ROTATED
    picture.save(tmp_path / "photo.png", exif=exif)
    with Image.open(tmp_path / "photo.png") as reopened:
        assert reopened.size == (2, 1)
        assert pixels_of(to_rgb(reopened, (2, 1))) == [[RED], [BLUE]]
    loaded = load_pictures(rows_of(tmp_path / "photo.png"), (2, 1))
    assert loaded[0, :, :, 0].T.tolist() == [list(RED), list(BLUE)]


def test_load_pictures_in_order_as_channels_first(tmp_path):
    first = from_pixels([RED, GREEN, BLUE], [BLUE, RED, WHITE])
    second = from_pixels([WHITE, WHITE, RED], [BLUE, GREEN, WHITE])
    first.save(tmp_path / "first.png")
    second.save(tmp_path / "second.png")
    loaded = load_pictures(rows_of(tmp_path / "second.png", tmp_path / "first.png"), (2, 3))
    assert loaded.dtype == torch.uint8
    expected = np.stack([np.array(second), np.array(first)]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(loaded.numpy(), expected)


def test_text_named_as_a_picture_is_named(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("not a picture")
    with pytest.raises(UserError, match=r"The picture .*bad\.png cannot be read"):
        load_pictures(rows_of(tmp_path / "good.png", tmp_path / "bad.png"), (2, 2))


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "webp"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_a_truncated_picture_is_named(tmp_path, kind, share):
    path = tmp_path / f"cut.{kind}"
    noise = torch.randint(256, (16, 16, 3), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=rf"The picture .*cut\.{kind} cannot be read"):
        load_pictures(rows_of(path), (16, 16))
