"""uint8 there and back, PIL pictures, grids."""

import pytest
import torch

from vqlm.vq.pixels import GRID_GAP, crop_to_multiple, pad_to_multiple, picture_grid, to_pil, to_pixel_values, to_uint8


def test_every_uint8_value_comes_back():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    pixel_values = to_pixel_values(values)
    assert (pixel_values.min(), pixel_values.max()) == (-1, 1)
    assert pixel_values.dtype == torch.float32
    assert torch.equal(to_uint8(pixel_values), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floating_point_values_stay_as_they_are(dtype):
    values = torch.tensor([[[-1.0, -0.25, 0.5, 1.0]]], dtype=dtype)
    assert torch.equal(to_pixel_values(values), values.float())


def test_values_beyond_the_range_are_clamped():
    assert to_uint8(torch.tensor([[[-3.0, 0.0, 3.0]]])).flatten().tolist() == [0, 128, 255]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pil_pictures_keep_height_width_and_values(channels, mode):
    pixel_values = torch.rand(2, channels, 3, 5) * 2 - 1
    pictures = to_pil(pixel_values)
    assert [(picture.size, picture.mode) for picture in pictures] == [((5, 3), mode)] * 2
    wanted = to_uint8(pixel_values)[1, :, 2, 4].tolist()
    pixel = pictures[1].getpixel((4, 2))
    assert (list(pixel) if channels == 3 else [pixel]) == wanted


def test_channels_that_are_no_colours():
    values = torch.tensor([-1.0, 1.0, 0.0, 0.5, 0.5]).view(1, 5, 1, 1)
    assert to_pil(values)[0].getpixel((0, 0)) == (0, 255, 128)  # the first three
    assert to_pil(values[:, :2])[0].getpixel((0, 0)) == 128  # the mean of two


# Sizes that do not fit


def series(*values: int) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, -1)


@pytest.mark.parametrize(
    ("values", "factor", "padded"),
    [
        ((1, 2, 3), 2, [1, 2, 3, 3]),
        ((1, 2, 3, 4), 2, [1, 2, 3, 4]),
        ((1, 2, 3, 4, 5), 4, [1, 2, 3, 4, 5, 5, 5, 5]),
        ((7,), 3, [7, 7, 7]),
        ((1, 2, 3), 1, [1, 2, 3]),
    ],
)
def test_padding_repeats_the_last_value(values, factor, padded):
    assert pad_to_multiple(series(*values), factor).flatten().tolist() == padded


@pytest.mark.parametrize(
    ("values", "factor", "cropped"),
    [
        ((1, 2, 3), 2, [1, 2]),
        ((1, 2, 3, 4), 2, [1, 2, 3, 4]),
        ((1, 2, 3, 4, 5, 6), 4, [2, 3, 4, 5]),
        ((1, 2, 3, 4, 5, 6, 7), 4, [2, 3, 4, 5]),
        ((1, 2, 3), 1, [1, 2, 3]),
    ],
)
def test_cropping_keeps_the_middle(values, factor, cropped):
    assert crop_to_multiple(series(*values), factor).flatten().tolist() == cropped


def test_each_axis_is_padded_and_cropped_by_itself():
    picture = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8).view(1, 1, 2, 3)
    assert pad_to_multiple(picture, 2).tolist() == [[[[1, 2, 3, 3], [4, 5, 6, 6]]]]
    assert crop_to_multiple(picture, 2).tolist() == [[[[1, 2], [4, 5]]]]
    volume = torch.randn(2, 3, 4, 5, 6)
    assert pad_to_multiple(volume, 4).shape == (2, 3, 4, 8, 8)
    assert crop_to_multiple(volume, 4).shape == (2, 3, 4, 4, 4)
    assert torch.equal(pad_to_multiple(volume, 4)[..., :5, :6], volume)
    assert torch.equal(crop_to_multiple(volume, 4), volume[..., :4, 1:5])


def test_grid_has_rows_of_pictures_on_white():
    rows = [torch.full((3, 3, 5, 7), -1.0), torch.zeros(3, 3, 5, 7)]
    rows[1][2] = 1.0
    grid = picture_grid(rows)
    wide, high = 7 + 2 * GRID_GAP, 5 + 2 * GRID_GAP
    assert grid.size == (3 * wide, 2 * high)
    assert grid.getpixel((0, 0)) == (255, 255, 255)
    assert grid.getpixel((GRID_GAP, GRID_GAP)) == (0, 0, 0)
    assert grid.getpixel((wide + GRID_GAP, high + GRID_GAP)) == (128, 128, 128)
    assert grid.getpixel((2 * wide + GRID_GAP, high + GRID_GAP)) == (255, 255, 255)
