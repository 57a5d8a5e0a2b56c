"""Muon moves weights of any shape, and many of one shape, as torch's Muon moves a single matrix."""

import pytest
import torch
from torch import nn

from vqlm.training.optimization.muon import Muon, orthogonalize


@pytest.mark.parametrize("most", [1, 70, 2**23])
def test_weights_move_as_torchs_muon_moves_each_matrix(monkeypatch, most):
    monkeypatch.setattr("vqlm.training.optimization.muon.MOST_AT_ONCE", most)
    monkeypatch.setattr("vqlm.training.optimization.muon.NEWTON_SCHULZ", [(3.4445, -4.7750, 2.0315)] * 5)  # torch's
    shapes = [(6, 5), (6, 5), (5, 6), (7, 45), (7, 5, 3, 3), (9, 7, 2), (9, 14), (6, 5)]
    weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    matrices = [nn.Parameter(weight.detach().flatten(1).clone()) for weight in weights]
    ours = Muon(weights, lr=0.01, weight_decay=0.1)
    theirs = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for number in range(3):
        for place, (weight, matrix) in enumerate(zip(weights, matrices, strict=True)):
            is_left_out = place == number  # a weight that a step does not reach
            weight.grad = None if is_left_out else torch.randn_like(weight)
            matrix.grad = None if is_left_out else weight.grad.flatten(1).clone()
        ours.step()
        theirs.step()
    for weight, matrix in zip(weights, matrices, strict=True):
        torch.testing.assert_close(weight.flatten(1), matrix, atol=5e-4, rtol=0.0)  # of 0.01 that it moved


@pytest.mark.parametrize("shape", [(6, 5, 4), (40, 2, 3, 3), (4, 4, 2, 2, 2)])
def test_any_kernel_moves_in_its_own_memory_order(shape):
    kernel = nn.Parameter(torch.randn(shape))
    if kernel.ndim == 4:
        kernel.data = kernel.data.to(memory_format=torch.channels_last)
    plain = nn.Parameter(kernel.detach().clone(memory_format=torch.contiguous_format))
    gradient = torch.randn(shape)
    for weight in (kernel, plain):
        weight.grad = gradient.clone()
        Muon([weight], lr=0.1).step()
    torch.testing.assert_close(kernel, plain)
    assert kernel.stride() != plain.stride() or kernel.ndim != 4


def test_all_directions_count_alike():
    u, _, v = torch.linalg.svd(torch.randn(16, 64), full_matrices=False)
    values = torch.logspace(0, -1.8, 16)  # the least is 0.012 of their norm
    for matrix in (u * values @ v, (u * values @ v).T, 1000 * u * values @ v):
        singular_values = torch.linalg.svdvals(orthogonalize(matrix[None])[0])
        assert singular_values.min() > 0.68
        assert singular_values.max() < 1.32


def test_a_single_direction_is_kept():
    direction = torch.nn.functional.normalize(torch.randn(12), dim=0)
    update = orthogonalize(torch.outer(direction, torch.randn(30))[None])[0]
    assert 0.7 < torch.linalg.matrix_norm(update, 2) < 1.3
    assert (direction @ update).norm() > 0.99 * update.norm()
