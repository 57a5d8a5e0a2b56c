"""Finite scalar quantization against values worked out by hand."""

import pytest
import torch

from vqlm.training.errors import UserError
from vqlm.vq.quantizers import FiniteScalarQuantizer
from vqlm.vq.quantizers.settings import FSQConfig

LEVELS = [[5, 3], [4, 3], [8, 5, 5], [3], [6, 4]]


def make_quantizer(levels: list[int]) -> FiniteScalarQuantizer:
    return FiniteScalarQuantizer(FSQConfig(levels=levels))


def at(*values: float) -> torch.Tensor:
    """One position, (1, D, 1)."""
    return torch.tensor(values).view(1, -1, 1)


# The bound of 5 levels is 2.002 tanh(z), that of 3 levels 1.001 tanh(z); that of 4 levels goes from -2.0015 to 1.0015.
@pytest.mark.parametrize(
    ("levels", "z_e", "digits", "vector"),
    [
        ([5, 3], (0.0, 0.0), (2, 1), (0.0, 0.0)),
        ([5, 3], (9.0, -9.0), (4, 0), (1.0, -1.0)),
        ([5, 3], (-9.0, 9.0), (0, 2), (-1.0, 1.0)),
        ([5, 3], (-0.5, 0.6), (1, 2), (-0.5, 1.0)),  # -0.93, 0.54
        ([5, 3], (0.3, 0.5), (3, 1), (0.5, 0.0)),  # 0.58, 0.46
        ([4, 3], (0.0, 0.0), (2, 1), (0.0, 0.0)),
        ([4, 3], (9.0, 9.0), (3, 2), (0.5, 1.0)),
        ([4, 3], (-9.0, 0.0), (0, 1), (-1.0, 0.0)),
        ([4, 3], (-0.5, -9.0), (1, 0), (-0.5, -1.0)),  # 1.5015 tanh(-0.5 + atanh(1 / 3.003)) - 0.5 = -0.73
    ],
)
def test_digits_codes_and_vectors_by_hand(levels, z_e, digits, vector):
    quantizer, code = make_quantizer(levels), digits[0] + levels[0] * digits[1]
    out = quantizer(at(*z_e))
    assert out.codes.tolist() == [[code]]
    assert quantizer.encode(at(*z_e)).tolist() == [[code]]
    torch.testing.assert_close(out.z_q, at(*vector), atol=1e-6, rtol=0)
    assert torch.equal(quantizer.decode(out.codes), at(*vector))


@pytest.mark.parametrize("levels", LEVELS)
def test_all_codes_have_vectors_of_their_own_within_1(levels):
    vectors = make_quantizer(levels).code_vectors()
    assert len(vectors.unique(dim=0)) == torch.tensor(levels).prod()
    assert vectors.abs().max() == 1
    for channel, number in zip(vectors.T, levels, strict=True):
        assert len(channel.unique()) == number


@pytest.mark.parametrize("levels", LEVELS)
def test_all_codes_there_and_back_through_the_inverse_of_the_bound(levels):
    quantizer = make_quantizer(levels)
    codes = torch.arange(quantizer.codebook_size).view(1, -1)
    number = torch.tensor(levels).view(1, -1, 1)
    half_span, offset = (number - 1) * 1.001 / 2, (number % 2 == 0) * 0.5
    bounded = quantizer.decode(codes) * (number // 2)
    z_e = torch.atanh((bounded + offset) / half_span) - torch.atanh(offset / half_span)
    assert z_e.isfinite().all()
    assert torch.equal(quantizer.encode(z_e), codes)


def test_no_losses_no_parameters_and_no_update():
    quantizer, z_e = make_quantizer([5, 3]), torch.randn(2, 2, 3)
    out = quantizer(z_e)
    assert (out.losses, quantizer.loss_weights()) == ({}, {})
    assert list(quantizer.parameters()) == []
    assert quantizer.update(z_e, out.codes) == 0


def test_the_gradient_is_that_of_the_bound_over_the_half_width():
    z_e, weight = torch.randn(2, 2, 5, requires_grad=True), torch.randn(2, 2, 5)
    (make_quantizer([4, 5])(z_e).z_q * weight).sum().backward()
    by_hand = z_e.detach().clone().requires_grad_()
    shift = torch.atanh(torch.tensor(0.5 / 1.5015))
    four, five = (torch.tanh(by_hand[:, 0] + shift) * 1.5015 - 0.5) / 2, torch.tanh(by_hand[:, 1]) * 2.002 / 2
    (torch.stack([four, five], 1) * weight).sum().backward()
    torch.testing.assert_close(z_e.grad, by_hand.grad)


@pytest.mark.parametrize("levels", [[], [5, 2], [1], [0, 5], [-3]])
def test_too_few_levels_are_refused(levels):
    with pytest.raises(UserError, match=r"levels` must hold numbers of at least 3, found \["):
        FSQConfig(levels=levels)
