"""PCA: it recovers a plane, bits go where they lower the error most, codes decode to what they encode."""

import pytest
import torch

from vqlm.training.errors import UserError
from vqlm.vq.pca import PCA


@pytest.fixture
def plane() -> torch.Tensor:
    """(500, 1, 3, 4) pictures around a mean of 0.1, along two directions, the first with 4 times the spread."""
    torch.manual_seed(0)
    directions = torch.linalg.qr(torch.randn(12, 2)).Q
    return (0.1 + torch.randn(500, 2) * torch.tensor([0.4, 0.1]) @ directions.T).view(500, 1, 3, 4)


def test_two_components_hold_a_plane(plane):
    pca = PCA.fit(plane, 2)
    torch.testing.assert_close(pca.components @ pca.components.T, torch.eye(2), atol=1e-5, rtol=0)
    back = (pca.mean + pca.coefficients @ pca.components).view_as(plane)
    torch.testing.assert_close(back, plane, atol=1e-5, rtol=0)
    assert pca.coefficients.std(0).tolist() == pytest.approx([0.4, 0.1], rel=0.1)


def test_never_more_components_than_there_can_be(plane):
    assert PCA.fit(plane, 99).components.shape == (12, 12)
    assert PCA.fit(plane[:5], 99).components.shape == (5, 12)


def test_bits_go_where_the_error_is(plane):
    # Variances 16 : 1. A bit divides one by 4: two bits for the first bring it to 1, the third is drawn evenly.
    levels = {bits: [len(level) for level in PCA.fit(plane, 2).with_bits(bits).levels] for bits in (1, 2, 5, 8)}
    assert levels[1] == [2]
    assert levels[2] == [4]
    assert sorted(levels[5]) in ([2, 16], [4, 8])
    assert levels[8][0] == 4 * levels[8][1]


def test_one_bit_of_two_values_is_exact():
    pictures = torch.tensor([[-0.5, 0.5], [0.5, -0.5]]).repeat(4, 1).view(8, 1, 1, 2)
    quantized = PCA.fit(pictures, 1).with_bits(1)
    codes = quantized.encode(pictures)
    assert codes.shape == (8, 1)
    assert len(codes.unique()) == 2
    torch.testing.assert_close(quantized.decode(codes), pictures)


def test_more_bits_less_error(plane):
    pca = PCA.fit(plane, 12)
    errors = []
    for bits in (1, 3, 6, 9):
        quantized = pca.with_bits(bits)
        errors.append((quantized.decode(quantized.encode(plane)) - plane).square().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * errors[0]


def test_eigen_pictures_use_the_whole_range(plane):
    pictures = PCA.fit(plane, 2).eigen_pictures(2)
    assert pictures.shape == (2, 1, 3, 4)
    assert pictures.abs().flatten(1).amax(1).tolist() == pytest.approx([1, 1])


def test_no_bits(plane):
    with pytest.raises(UserError, match="at least 1, found 0"):
        PCA.fit(plane, 2).with_bits(0)
