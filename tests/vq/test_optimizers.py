"""Which optimizer moves which weight of a VQ-VAE, and how far."""

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from vq.model import VQVAE
from vq.optimizers import KernelMuon, build_optimizers, orthogonalize


def test_a_kernel_moves_as_torchs_muon_moves_its_matrix():
    kernel = nn.Parameter(torch.randn(6, 5, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    ours = KernelMuon([kernel], lr=0.01, weight_decay=0.1)
    theirs = Muon([matrix], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        kernel.grad = torch.randn_like(kernel)
        matrix.grad = kernel.grad.flatten(1).clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(kernel.flatten(1), matrix)


@pytest.mark.parametrize("shape", [(6, 5, 4), (40, 2, 3, 3), (4, 4, 2, 2, 2)])
def test_any_kernel_moves_in_its_own_memory_order(shape):
    kernel = nn.Parameter(torch.randn(shape))
    if kernel.ndim == 4:
        kernel.data = kernel.data.to(memory_format=torch.channels_last)
    plain = nn.Parameter(kernel.detach().clone(memory_format=torch.contiguous_format))
    gradient = torch.randn(shape)
    for weight in (kernel, plain):
        weight.grad = gradient.clone()
        KernelMuon([weight], lr=0.1).step()
    torch.testing.assert_close(kernel, plain)
    assert kernel.stride() != plain.stride() or kernel.ndim != 4


def test_all_directions_count_alike():
    u, _, v = torch.linalg.svd(torch.randn(16, 64), full_matrices=False)
    matrix = u @ torch.diag(torch.logspace(0, -1, 16)) @ v
    singular_values = torch.linalg.svdvals(orthogonalize(matrix))
    assert singular_values.min() > 0.5
    assert singular_values.max() < 1.5


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_every_weight_has_one_optimizer(tiny_vqvae_config, name):
    model = VQVAE(tiny_vqvae_config)
    optimizers = build_optimizers(name, model, 1e-3, 0.0, 0.99)
    moved = [id(weight) for one in optimizers for group in one.param_groups for weight in group["params"]]
    assert sorted(moved) == sorted(id(weight) for weight in model.parameters())
    assert [type(one) for one in optimizers] == ([KernelMuon, AdamW] if name == "muon" else [AdamW])
    if name == "muon":
        assert all(weight.ndim == 4 for weight in optimizers[0].param_groups[0]["params"])
