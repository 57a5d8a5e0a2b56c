"""Gradient estimators against values by hand and the matrix of the rotation."""

import math

import pytest
import torch

from vqlm.vq.quantizers import rotation, straight_through


def column(*values: float) -> torch.Tensor:
    """One vector, (1, D, 1), with gradients."""
    return torch.tensor(values).view(1, -1, 1).requires_grad_()


def gradient(estimator, z_e: torch.Tensor, z_q: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    (estimator(z_e, z_q) * weight).sum().backward()
    assert z_e.grad is not None
    return z_e.grad


def turned(angle: float) -> torch.Tensor:
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def test_straight_through_by_hand():
    z_e, z_q, weight = column(3.0, 1.0), column(1.0, -2.0), column(2.0, 5.0).detach()
    assert straight_through(z_e, z_q).flatten().tolist() == [1.0, -2.0]
    assert gradient(straight_through, z_e, z_q, weight).flatten().tolist() == [2.0, 5.0]


def test_rotation_by_a_right_angle_by_hand():
    z_e, z_q, weight = column(2.0, 0.0), column(0.0, 3.0), column(1.0, 2.0).detach()
    # Turned by 90 degrees and made 1.5 times as long, (x, y) -> 1.5 (-y, x); transposed, (a, b) -> 1.5 (b, -a).
    assert gradient(rotation, z_e, z_q, weight).flatten().tolist() == pytest.approx([3.0, -1.5])


@pytest.mark.parametrize("angle", [-2.5, -0.4, 0.0, 0.7, 3.0])
def test_rotation_in_a_plane_is_that_by_the_angle_between(angle):
    e, g = torch.tensor([1.2, -0.5]), torch.tensor([0.3, 2.0])
    q = 0.6 * turned(angle) @ e
    gradient_of_z_e = gradient(rotation, column(*e.tolist()), column(*q.tolist()), g.view(1, 2, 1))
    torch.testing.assert_close(gradient_of_z_e.flatten(), 0.6 * turned(angle).T @ g)


@pytest.mark.parametrize("dim", [3, 8])
def test_rotation_by_its_matrix(dim):
    e, q, g = torch.randn(3, dim)
    unit_e, unit_q = e / e.norm(), q / q.norm()
    w = (unit_e + unit_q) / (unit_e + unit_q).norm()
    matrix = torch.eye(dim) - 2 * torch.outer(w, w) + 2 * torch.outer(unit_q, unit_e)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(dim))
    torch.testing.assert_close(matrix @ unit_e, unit_q)
    gradient_of_z_e = gradient(rotation, column(*e.tolist()), column(*q.tolist()), g.view(1, dim, 1))
    torch.testing.assert_close(gradient_of_z_e.flatten(), q.norm() / e.norm() * matrix.T @ g)


def test_the_value_of_rotation_is_z_q_to_the_last_bit():
    z_e, z_q = torch.randn(5, 6, 100), torch.randn(5, 6, 100)
    assert torch.equal(rotation(z_e, z_q), z_q)


@pytest.mark.parametrize(
    ("e", "q"),
    [((0.0, 0.0), (1.0, 2.0)), ((1.0, 2.0), (0.0, 0.0)), ((0.0, 0.0), (0.0, 0.0)), ((1.0, 2.0), (-1.0, -2.0))],
    ids=["zero z_e", "zero z_q", "both zero", "opposite"],
)
def test_rotation_is_finite_where_it_is_not_defined(e, q):
    z_e, z_q = column(*e), column(*q)
    assert torch.equal(rotation(z_e, z_q), z_q)
    assert gradient(rotation, z_e, z_q, torch.ones(1, 2, 1)).isfinite().all()


@pytest.mark.parametrize("estimator", [straight_through, rotation])
def test_no_gradient_to_z_q(estimator):
    z_e, z_q = column(1.0, 2.0), column(3.0, -1.0)
    gradient(estimator, z_e, z_q, torch.ones(1, 2, 1))
    assert z_q.grad is None


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("estimator", [straight_through, rotation])
def test_each_position_is_by_itself_in_any_number_of_dimensions(estimator, shape):
    e, q, g = torch.randn(3, 2, 4, 6)
    flat = gradient(estimator, e.clone().requires_grad_(), q, g)
    shaped_e, shaped_q, shaped_g = (x.view(2, 4, *shape) for x in (e, q, g))
    shaped = gradient(estimator, shaped_e.clone().requires_grad_(), shaped_q, shaped_g)
    torch.testing.assert_close(shaped, flat.view(2, 4, *shape))
    alone = gradient(estimator, e[1:, :, 5:].clone().requires_grad_(), q[1:, :, 5:], g[1:, :, 5:])
    torch.testing.assert_close(alone, flat[1:, :, 5:])
