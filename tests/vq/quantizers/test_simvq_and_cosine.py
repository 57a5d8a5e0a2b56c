"""A codebook under one linear map, and codes compared by angle."""

import pytest
import torch
import torch.nn.functional as F

from vqlm.vq.quantizers import VectorQuantizer
from vqlm.vq.quantizers.settings import VQConfig


def make_quantizer(**settings) -> VectorQuantizer:
    return VectorQuantizer(VQConfig(**{"codebook_size": 8, "codebook_dim": 3, "normalize_z_e": False} | settings))


# SimVQ


def test_code_vectors_are_the_codebook_through_the_map():
    quantizer = make_quantizer(codebook_training="simvq")
    vectors = quantizer.codebook @ quantizer.linear.weight.T
    torch.testing.assert_close(quantizer.code_vectors(), vectors)
    z_e = torch.randn(2, 3, 5)
    codes = torch.cdist(z_e.movedim(1, -1), vectors.expand(2, 8, 3)).argmin(-1)
    out = quantizer(z_e)
    assert torch.equal(out.codes, codes)
    torch.testing.assert_close(out.z_q, vectors[codes].movedim(-1, 1))


def test_only_the_map_has_gradients():
    quantizer = make_quantizer(codebook_training="simvq")
    assert [name for name, _ in quantizer.named_parameters()] == ["linear.weight"]
    assert quantizer.loss_weights() == {"codebook": 1.0, "commitment": 0.25}
    z_e = torch.randn(2, 3, 5, requires_grad=True)
    out = quantizer(z_e)
    out.losses["codebook"].backward()
    chosen = quantizer.codebook[out.codes].flatten(0, 1)
    away = out.z_q.detach().movedim(1, -1).flatten(0, 1) - z_e.detach().movedim(1, -1).flatten(0, 1)
    torch.testing.assert_close(quantizer.linear.weight.grad, 2 / away.numel() * away.T @ chosen)
    assert z_e.grad is None


def test_the_codebook_stays_as_it_started():
    quantizer = make_quantizer(codebook_training="simvq", dead_code_threshold=5.0, ema_decay=0.0)
    codebook, weight = quantizer.codebook.clone(), quantizer.linear.weight.detach().clone()
    z_e = torch.randn(2, 3, 5)
    out = quantizer(z_e)
    out.losses["codebook"].backward()
    torch.optim.SGD(quantizer.parameters(), lr=0.1).step()
    assert quantizer.update(z_e, out.codes) == 0
    assert torch.equal(quantizer.codebook, codebook)
    assert not torch.equal(quantizer.linear.weight, weight)


def test_a_sample_starts_the_map_as_the_identity():
    quantizer, z_e = make_quantizer(codebook_training="simvq"), torch.randn(2, 3, 4)
    quantizer.initialize(z_e)
    assert torch.equal(quantizer.linear.weight, torch.eye(3))
    assert torch.equal(quantizer.code_vectors(), quantizer.codebook)
    assert sorted(quantizer.codebook.tolist()) == sorted(z_e.movedim(1, -1).reshape(8, 3).tolist())


def test_random_keeps_codebook_and_map():
    quantizer = make_quantizer(codebook_training="simvq", initialization="random")
    codebook, weight = quantizer.codebook.clone(), quantizer.linear.weight.detach().clone()
    quantizer.initialize(torch.randn(2, 3, 4))
    assert torch.equal(quantizer.codebook, codebook)
    assert torch.equal(quantizer.linear.weight, weight)


# Cosine


@pytest.mark.parametrize("codebook_training", ["ema", "gradient", "simvq"])
def test_the_code_is_that_of_the_greatest_cosine_similarity(codebook_training):
    quantizer = make_quantizer(distance="cosine", codebook_training=codebook_training)
    quantizer.codebook.data.copy_(torch.randn(8, 3) * torch.logspace(-2, 2, 8).unsqueeze(1))
    vectors = quantizer.codebook if quantizer.linear is None else quantizer.codebook @ quantizer.linear.weight.T
    z_e = torch.randn(2, 3, 4, 5)
    similarity = F.cosine_similarity(z_e.movedim(1, -1).unsqueeze(-2), vectors, dim=-1)
    assert torch.equal(quantizer.encode(z_e), similarity.argmax(-1))


def test_codes_and_losses_by_hand():
    quantizer = make_quantizer(codebook_size=2, codebook_dim=2, distance="cosine")
    quantizer.codebook.copy_(torch.tensor([[100.0, 0.0], [0.0, 0.01]]))
    out = quantizer(torch.tensor([3.0, 4.0]).view(1, 2, 1))  # of length 1 it is (0.6, 0.8)
    assert out.codes.tolist() == [[1]]
    assert out.z_q.flatten().tolist() == pytest.approx([0.0, 1.0])
    assert out.losses["commitment"].item() == pytest.approx((0.36 + 0.04) / 2)
    assert out.losses["codebook"].item() == pytest.approx((0.36 + 0.04) / 2)


@pytest.mark.parametrize("codebook_training", ["ema", "gradient", "simvq"])
def test_code_vectors_have_length_1(codebook_training):
    quantizer, z_e = make_quantizer(distance="cosine", codebook_training=codebook_training), torch.randn(2, 3, 5)
    torch.testing.assert_close(quantizer.code_vectors().norm(dim=1), torch.ones(8))
    quantizer.initialize(z_e)
    torch.testing.assert_close(quantizer.code_vectors().norm(dim=1), torch.ones(8))
    quantizer.update(z_e, quantizer.encode(z_e))
    torch.testing.assert_close(quantizer.code_vectors().norm(dim=1), torch.ones(8))


def test_running_means_are_those_of_vectors_of_length_1():
    quantizer = make_quantizer(codebook_size=1, codebook_dim=2, distance="cosine", ema_decay=0.0)
    quantizer.update(torch.tensor([[[2.0, 0.0], [0.0, 5.0]]]), torch.tensor([[0, 0]]))  # (2, 0) and (0, 5)
    torch.testing.assert_close(quantizer.codebook, torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(quantizer.code_vectors(), torch.tensor([[0.5**0.5, 0.5**0.5]]))


def test_the_length_of_z_e_counts_for_nothing():
    quantizer, z_e = make_quantizer(distance="cosine"), torch.randn(2, 3, 5)
    out, scaled = quantizer(z_e), quantizer(z_e * torch.tensor([0.01, 50.0]).view(2, 1, 1))
    assert torch.equal(scaled.codes, out.codes)
    torch.testing.assert_close(scaled.z_q, out.z_q)
    torch.testing.assert_close(scaled.losses, out.losses)
