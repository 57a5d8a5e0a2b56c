"""Lookup-free quantization against values by hand, its entropy loss against the sum over all codes."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from vqlm.training.errors import UserError
from vqlm.vq.quantizers import LookupFreeQuantizer
from vqlm.vq.quantizers.settings import LFQConfig


def make_quantizer(dim: int, **settings) -> LookupFreeQuantizer:
    return LookupFreeQuantizer(LFQConfig(codebook_size=2**dim, **settings))


def naive_entropy_loss(z_e: torch.Tensor, temperature: float, diversity: float) -> torch.Tensor:
    """All N x K distances, in double."""
    vectors = z_e.double().movedim(1, -1).flatten(0, -2)
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=vectors.shape[1])), dtype=torch.float64)
    share = F.softmax(-(vectors[:, None] - corners).square().sum(-1) / temperature, -1)
    mean = share.mean(0)
    return -(share * share.log()).sum(1).mean() + diversity * (mean * mean.log()).sum()


# Codes


@pytest.mark.parametrize(
    ("z_e", "code"),
    [
        ((-1.0, -1.0, 0.2), 0b001),
        ((-0.3, 5.0, -2.0), 0b010),
        ((0.1, -0.1, -9.0), 0b100),
        ((0.5, -0.1, 2.0), 0b101),
        ((1.0, 1.0, 1.0), 0b111),
        ((0.0, 0.0, 0.0), 0b000),
    ],
)
def test_the_signs_are_the_bits_of_the_code(z_e, code):
    quantizer = make_quantizer(3)
    out = quantizer(torch.tensor(z_e).view(1, 3, 1))
    assert out.codes.tolist() == [[code]]
    assert out.z_q.flatten().tolist() == pytest.approx([1.0 if value > 0 else -1.0 for value in z_e])
    assert torch.equal(quantizer.decode(out.codes).flatten(), quantizer.code_vectors()[code])


def test_all_codes_there_and_back():
    quantizer, codes = make_quantizer(5), torch.arange(32).view(2, 4, 4)
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)
    assert quantizer.code_vectors().abs().unique().tolist() == [1.0]


def test_the_gradient_passes_unchanged():
    z_e, weight = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4)
    (make_quantizer(3)(z_e).z_q * weight).sum().backward()
    assert torch.equal(z_e.grad, weight)


# Losses


def test_commitment_loss_by_hand():
    z_e = torch.tensor([[[0.5], [-3.0]]], requires_grad=True)  # to (1, -1)
    loss = make_quantizer(2)(z_e).losses["commitment"]
    assert loss.item() == pytest.approx((0.25 + 4) / 2)
    loss.backward()
    assert z_e.grad.flatten().tolist() == pytest.approx([-0.5, -2.0])


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("temperature", "diversity"), [(1.0, 1.0), (0.5, 2.5), (3.0, 0.0)])
def test_entropy_loss_and_its_gradient_are_those_over_all_codes(dim, temperature, diversity):
    z_e = torch.randn(2, dim, 3).requires_grad_()
    loss = make_quantizer(dim, temperature=temperature, diversity=diversity)(z_e).losses["entropy"]
    naive = naive_entropy_loss(z_e, temperature, diversity)
    torch.testing.assert_close(loss, naive.float(), atol=1e-5, rtol=1e-5)
    gradient, wanted = torch.autograd.grad(loss, z_e)[0], torch.autograd.grad(naive, z_e)[0]
    torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-4)


def test_undecided_and_decided_vectors_by_hand():
    quantizer = make_quantizer(3)  # entropies in nats
    undecided, one_code = torch.zeros(1, 3, 2), torch.ones(1, 3, 2)
    assert quantizer(undecided).losses["entropy"].item() == pytest.approx(0.0, abs=1e-6)  # log 8 - log 8
    assert quantizer(one_code).losses["entropy"].item() == pytest.approx(0.0, abs=1e-6)  # 0 - 0
    all_codes = quantizer.code_vectors().T.unsqueeze(0)
    assert quantizer(all_codes).losses["entropy"].item() == pytest.approx(-torch.tensor(8.0).log().item())


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4, 1e20])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_extreme_logits_and_codes_of_no_vector_are_finite(dim, scale):
    z_e = (scale * torch.arange(1.0, dim + 1)).view(1, dim, 1).requires_grad_()  # near one code, far from all others
    loss = make_quantizer(dim)(z_e).losses["entropy"]
    loss.backward()
    assert loss.isfinite()
    assert z_e.grad.isfinite().all()


# Settings


@pytest.mark.parametrize("size", [0, 1, 3, 12, 1000, -4])
def test_a_size_that_is_no_power_of_two_is_refused(size):
    with pytest.raises(UserError, match=f"codebook_size` must be a power of two for lfq, found {size}"):
        LFQConfig(codebook_size=size)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(UserError, match=f"temperature` must be above 0, found {temperature}"):
        LFQConfig(temperature=temperature)
