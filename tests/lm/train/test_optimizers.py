"""Which optimizer moves which weight, and how far."""

import pytest
import torch
from torch.optim import AdamW

from vqlm.lm.train.optimizers import build_optimizers
from vqlm.training.optimization.muon import Muon


def weights_of(optimizer) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_every_weight_has_one_optimizer(build_tiny, architecture, tied):
    model = build_tiny(architecture, tie_word_embeddings=tied)
    muon, adamw = build_optimizers("muon", model, 1e-3, 0.1, 0.99)
    assert (type(muon), type(adamw)) == (Muon, AdamW)
    by_muon, by_adamw = ({id(weight) for weight in weights_of(optimizer)} for optimizer in (muon, adamw))
    assert not by_muon & by_adamw
    assert by_muon | by_adamw == {id(weight) for weight in model.parameters()}
    names = {name for name, weight in model.named_parameters() if id(weight) in by_muon}
    inside_blocks = {n for n, w in model.named_parameters() if w.ndim == 2 and (".layers." in n or ".h." in n)}
    assert names == inside_blocks
    assert names


def test_vectors_are_not_decayed(build_tiny):
    for optimizer in build_optimizers("muon", build_tiny(), 1e-3, 0.1, 0.99):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                assert group["weight_decay"] == (0.1 if weight.ndim >= 2 else 0.0)


def test_adamw_alone_moves_all(build_tiny):
    model = build_tiny()
    (adamw,) = build_optimizers("adamw", model, 1e-3, 0.1, 0.99)
    assert isinstance(adamw, AdamW)
    assert len(weights_of(adamw)) == len(list(model.parameters()))


def test_muon_moves_a_matrix_alike_in_all_directions_and_as_far_as_adamw(build_tiny):
    model = build_tiny()
    muon, _ = build_optimizers("muon", model, 1e-2, 0.0, 0.99)
    weight = model.model.layers[0].mlp.up_proj.weight  # (64, 32)
    before = weight.detach().clone()
    # A gradient of widely different singular values.
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(64, 32), full_matrices=False)
    weight.grad = u @ torch.diag(torch.logspace(0, -1, 32)) @ v
    muon.step()
    moved = torch.linalg.svdvals(before - weight.detach())
    scale = 1e-2 * 0.2 * 64**0.5  # root mean square 0.2 of the rate, which is AdamW's on average
    assert (moved / scale).min() > 0.5
    assert (moved / scale).max() < 1.5
