"""The nearest codes: exact, the same in any tiling, and the lowest index of a tie."""

import pytest
import torch

from vqlm.vq import nearest
from vqlm.vq.nearest import nearest_codes

# Elements of a tile, codes of a tile, codes of a block: one tile, several of rows, several of columns, and both.
TILINGS = {
    "one tile": (512 * 1024, 8192, 128),
    "small blocks": (512 * 1024, 8192, 4),
    "row tiles": (400, 8192, 128),
    "single rows": (1, 8192, 128),
    "column tiles": (512 * 1024, 8, 8),
    "row and column tiles": (40, 8, 4),
}


@pytest.fixture(params=TILINGS)
def tiling(request, monkeypatch):
    elements, codes, block = TILINGS[request.param]
    monkeypatch.setattr(nearest, "TILE_ELEMENTS", elements)
    monkeypatch.setattr(nearest, "MAX_CODES_PER_TILE", codes)
    monkeypatch.setattr(nearest, "BLOCK", block)


def naive_codes(vectors, codebook):
    return torch.cdist(vectors.double(), codebook.double()).argmin(1)


def quarters(*shape):
    """Numbers whose products and sums fp32 holds exactly, so that equal distances come out equal in any order."""
    return torch.randint(-8, 9, shape) / 4


def test_codes_of_a_codebook_written_by_hand():
    codebook = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [10.0, 10.0]])
    vectors = torch.tensor([[3.0, 1.0], [-5.0, -5.0], [1.0, 2.5], [8.0, 3.0], [8.0, 9.0], [1.0, 1.0]])
    assert nearest_codes(vectors, codebook).tolist() == [1, 0, 2, 1, 3, 0]


@pytest.mark.usefixtures("tiling")
@pytest.mark.parametrize(("n", "k", "d"), [(1, 1, 1), (7, 3, 5), (3, 65, 2), (129, 17, 33), (101, 37, 16)])
def test_codes_equal_those_of_the_full_distance_matrix(n, k, d):
    vectors, codebook = torch.randn(n, d), torch.randn(k, d)
    codes = nearest_codes(vectors, codebook)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, naive_codes(vectors, codebook))


def test_codes_beyond_one_tile_of_the_real_size():
    codebook = torch.randn(nearest.MAX_CODES_PER_TILE + 3, 8)
    wanted = torch.tensor([0, 5, nearest.MAX_CODES_PER_TILE - 1, nearest.MAX_CODES_PER_TILE, len(codebook) - 1])
    assert torch.equal(nearest_codes(codebook[wanted] + 1e-3, codebook), wanted)


@pytest.mark.usefixtures("tiling")
@pytest.mark.parametrize("d", [1, 2, 16])
def test_a_tie_goes_to_the_lowest_index(d):
    vectors, codebook = quarters(101, d), quarters(11, d).repeat(3, 1)  # every row thrice, in different tiles
    squares = (vectors.double().unsqueeze(1) - codebook.double()).square().sum(2)
    lowest = [row.index(min(row)) for row in squares.tolist()]
    assert nearest_codes(vectors, codebook).tolist() == lowest
    assert max(lowest) < 11


def test_no_vectors_have_no_codes():
    assert nearest_codes(torch.zeros(0, 3), torch.zeros(4, 3)).shape == (0,)


def test_codes_are_exact_under_autocast():
    vectors, codebook = torch.randn(200, 16), 1 + 0.01 * torch.randn(64, 16)  # too close for bf16 to tell apart
    exact = nearest_codes(vectors, codebook)
    assert not torch.equal(exact, nearest_codes(vectors.bfloat16(), codebook.bfloat16()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest_codes(vectors, codebook), exact)


@pytest.mark.parametrize("d", [5, 16, 17, 33, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 64])
def test_equal_rows_of_any_floats_go_to_the_lowest_index(d, count):
    codebook = torch.randn(3, d).repeat(2, 1)
    codes = nearest_codes(torch.randn(count, d), codebook)
    assert codes.max() < 3


def test_minus_zero_equals_zero():
    codebook = torch.tensor([[5.0, 5.0], [0.0, 1.0], [-0.0, 1.0]])
    assert nearest_codes(torch.tensor([[0.0, 1.0]]), codebook).tolist() == [1]
