"""uint8 there and back, PIL pictures, grids."""

import pytest
import torch

from vq.pictures import GRID_GAP, picture_grid, to_pil, to_pixel_values, to_uint8


def test_every_uint8_value_comes_back():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    pixel_values = to_pixel_values(values)
    assert (pixel_values.min(), pixel_values.max()) == (-1, 1)
    assert pixel_values.dtype == torch.float32
    assert torch.equal(to_uint8(pixel_values), values)


def test_values_beyond_the_range_are_clamped():
    assert to_uint8(torch.tensor([[[-3.0, 0.0, 3.0]]])).flatten().tolist() == [0, 128, 255]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pil_pictures_keep_height_width_and_values(channels, mode):
    pixel_values = torch.rand(2, channels, 3, 5) * 2 - 1
    pictures = to_pil(pixel_values)
    assert [(picture.size, picture.mode) for picture in pictures] == [((5, 3), mode)] * 2
    wanted = to_uint8(pixel_values)[1, :, 2, 4].tolist()
    found = pictures[1].getpixel((4, 2))
    assert (list(found) if channels == 3 else [found]) == wanted


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
