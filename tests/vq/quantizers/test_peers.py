"""The same codes and vectors as vector-quantize-pytorch makes of the same codebooks."""

import pytest
import torch

from vqlm.vq.quantizers import FiniteScalarQuantizer, LookupFreeQuantizer, ResidualQuantizer, VectorQuantizer, rotation
from vqlm.vq.quantizers.settings import FSQConfig, LFQConfig, ResidualConfig, VQConfig

peers = pytest.importorskip("vector_quantize_pytorch")

PLAIN = {"codebook_size": 16, "codebook_dim": 4, "normalize_z_e": False}


def vectors(dim: int = 4) -> torch.Tensor:
    """(B, D, N) with gradients; the peers take (B, N, D)."""
    return torch.randn(2, dim, 9, requires_grad=True)


def assert_same(out, peer_z_q: torch.Tensor, peer_codes: torch.Tensor) -> None:
    assert torch.equal(out.codes, peer_codes.long())
    assert len(out.codes.unique()) > 1
    torch.testing.assert_close(out.z_q, peer_z_q.mT)


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_vector_quantization(distance):
    quantizer, z_e = VectorQuantizer(VQConfig(**PLAIN, distance=distance)), vectors()
    quantizer.codebook.normal_()
    peer = peers.VectorQuantize(dim=4, codebook_size=16, use_cosine_sim=distance == "cosine").eval()
    peer.codebook = quantizer.code_vectors()
    assert_same(quantizer(z_e), *peer(z_e.mT)[:2])


@pytest.mark.parametrize("estimator", ["straight_through", "rotation"])
def test_simvq(estimator):
    quantizer = VectorQuantizer(VQConfig(**PLAIN, codebook_training="simvq", gradient_estimator=estimator))
    peer, z_e = peers.SimVQ(dim=4, codebook_size=16, rotation_trick=estimator == "rotation"), vectors()
    quantizer.codebook.copy_(peer.frozen_codebook)
    quantizer.linear.load_state_dict(peer.code_transform.state_dict())
    out, (peer_z_q, peer_codes, peer_loss) = quantizer(z_e), peer(z_e.mT)
    assert_same(out, peer_z_q, peer_codes)
    loss = sum(weight * out.losses[name] for name, weight in quantizer.loss_weights().items())
    torch.testing.assert_close(loss, peer_loss)
    (gradient,) = torch.autograd.grad(loss, quantizer.linear.weight)
    (peer_gradient,) = torch.autograd.grad(peer_loss, peer.code_transform.weight)
    torch.testing.assert_close(gradient, peer_gradient)


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [5, 3], [4, 3, 6], [7]])
def test_finite_scalar_quantization(levels):
    quantizer, peer, z_e = FiniteScalarQuantizer(FSQConfig(levels=levels)), peers.FSQ(levels), vectors(len(levels))
    out, (peer_z_q, peer_codes) = quantizer(z_e), peer(z_e.mT)
    assert_same(out, peer_z_q, peer_codes)
    torch.testing.assert_close(quantizer.code_vectors(), peer.implicit_codebook)
    weight = torch.randn_like(out.z_q)
    (gradient,) = torch.autograd.grad((out.z_q * weight).sum(), z_e)
    (peer_gradient,) = torch.autograd.grad((peer_z_q * weight.mT).sum(), z_e)
    torch.testing.assert_close(gradient, peer_gradient)


@pytest.mark.parametrize("dim", [3, 4])
def test_lookup_free_quantization(dim):
    quantizer = LookupFreeQuantizer(LFQConfig(codebook_size=2**dim, temperature=2.0))
    peer, z_e = peers.LFQ(codebook_size=2**dim, commitment_loss_weight=1.0), vectors(dim)
    out, (peer_output, parts) = quantizer(z_e), peer(z_e.mT, inv_temperature=0.5, return_loss_breakdown=True)
    assert_same(out, peer_output.quantized, peer_output.indices)
    torch.testing.assert_close(quantizer.code_vectors(), peer.codebook)
    torch.testing.assert_close(out.losses["commitment"], parts.commitment)
    entropy = parts.per_sample_entropy - parts.batch_entropy
    torch.testing.assert_close(out.losses["entropy"], entropy, atol=1e-3, rtol=0)  # the peer clamps its logarithms


def test_residual_quantization():
    quantizer, z_e = ResidualQuantizer(ResidualConfig(**PLAIN, num_quantizers=3)), vectors()
    peer = peers.ResidualVQ(dim=4, num_quantizers=3, codebook_size=16).eval()
    for depth, (layer, peer_layer) in enumerate(zip(quantizer.layers, peer.layers, strict=True)):
        layer.codebook.normal_(std=2.0**-depth)
        peer_layer.codebook = layer.codebook
    assert_same(quantizer(z_e), *peer(z_e.mT)[:2])


def test_rotation():
    rotate_to = pytest.importorskip("vector_quantize_pytorch.vector_quantize_pytorch").rotate_to
    z_e, z_q, weight = vectors(), torch.randn(2, 4, 9), torch.randn(2, 4, 9)
    ours, theirs = rotation(z_e, z_q), rotate_to(z_e.mT, z_q.mT)
    torch.testing.assert_close(ours, theirs.mT)
    (gradient,) = torch.autograd.grad((ours * weight).sum(), z_e)
    (peer_gradient,) = torch.autograd.grad((theirs * weight.mT).sum(), z_e)
    torch.testing.assert_close(gradient, peer_gradient)
