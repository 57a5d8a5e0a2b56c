"""Residual and product codes against values worked out by hand."""

import pytest
import torch
import torch.nn.functional as F

from vqlm.training.errors import UserError
from vqlm.vq.quantizers import GroupedQuantizer, ResidualQuantizer, VectorQuantizer
from vqlm.vq.quantizers.settings import GroupedConfig, ResidualConfig

FIRST, SECOND = torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [2.0]])
PLAIN = {"codebook_size": 2, "normalize_z_e": False, "dead_code_threshold": 0.0, "ema_decay": 0.5}


def fill(quantizer, *codebooks: torch.Tensor):
    """The quantizer with these codebooks, each code with a running count of 1."""
    for layer, codebook in zip(quantizer.layers, codebooks, strict=True):
        layer.codebook.data.copy_(codebook)
        layer.ema_sum.copy_(codebook)
    return quantizer


def make_residual(**settings) -> ResidualQuantizer:
    return fill(ResidualQuantizer(ResidualConfig(codebook_dim=1, **PLAIN | settings)), FIRST, SECOND)


def make_grouped(**settings) -> GroupedQuantizer:
    """The first channel has codes 0 and 10, the second -1 and 2."""
    return fill(GroupedQuantizer(GroupedConfig(codebook_dim=2, **PLAIN | settings)), FIRST, SECOND)


# Residual: 1 -> 0, leaving 1 -> 2; 12 -> 10, leaving 2 -> 2; 9 -> 10, leaving -1 -> -1.
Z_E = torch.tensor([[[1.0, 12.0, 9.0]]])
CODES = [[[0, 1], [1, 1], [1, 0]]]


def test_residual_codes_sums_and_losses_by_hand():
    quantizer = make_residual()
    out = quantizer(Z_E)
    assert out.codes.tolist() == CODES
    assert quantizer.encode(Z_E).tolist() == CODES
    torch.testing.assert_close(out.z_q, torch.tensor([[[2.0, 12.0, 9.0]]]))
    assert quantizer.decode(out.codes).flatten().tolist() == [2.0, 12.0, 9.0]
    loss = (1 + 4 + 1) / 3 + (1 + 0 + 0) / 3  # what each depth left over
    assert out.losses["codebook"].item() == pytest.approx(loss)
    assert out.losses["commitment"].item() == pytest.approx(loss)


def test_residual_gradients_by_hand():
    quantizer, z_e = make_residual(codebook_training="gradient"), Z_E.clone().requires_grad_()
    losses = quantizer(z_e).losses
    losses["commitment"].backward()
    torch.testing.assert_close(z_e.grad, 2 / 3 * torch.tensor([[[1.0 - 1.0, 2.0 + 0.0, -1.0 + 0.0]]]))
    assert all(layer.codebook.grad is None for layer in quantizer.layers)
    losses["codebook"].backward()
    torch.testing.assert_close(quantizer.layers[0].codebook.grad, 2 / 3 * torch.tensor([[-1.0], [-2.0 + 1.0]]))
    torch.testing.assert_close(quantizer.layers[1].codebook.grad, 2 / 3 * torch.tensor([[0.0], [1.0 + 0.0]]))


@pytest.mark.parametrize("quantizer", [make_residual(), make_grouped()], ids=["residual", "grouped"])
def test_the_gradient_passes_unchanged(quantizer):
    z_e = torch.randn(2, quantizer.config.codebook_dim, 3, requires_grad=True)
    weight = torch.randn_like(z_e)
    (quantizer(z_e).z_q * weight).sum().backward()
    assert torch.equal(z_e.grad, weight)


def test_residual_update_moves_each_codebook_by_what_the_ones_before_left():
    quantizer = make_residual()
    assert quantizer.update(Z_E, torch.tensor(CODES)) == 0
    first, second = quantizer.layers
    # Means of 1 with 0, and of 12 and 9 (count 2) with 10 (count 1).
    torch.testing.assert_close(first.codebook, torch.tensor([[0.5], [31 / 3]]))
    # By the codebook before this update the leftovers are -1 for the first code, 1 and 2 for the second.
    torch.testing.assert_close(second.codebook, torch.tensor([[-1.0], [5 / 3]]))


def test_residual_starts_each_codebook_from_what_the_ones_before_left():
    quantizer = make_residual(initialization="kmeans")
    z_e = torch.tensor([[[0.0, 10.0, 1.0, 11.0]]])
    quantizer.initialize(z_e)
    first, second = quantizer.layers
    assert sorted(first.codebook.flatten().tolist()) == [0.5, 10.5]
    assert sorted(second.codebook.flatten().tolist()) == [-0.5, 0.5]
    assert torch.equal(quantizer.decode(quantizer.encode(z_e)), z_e)


def test_residual_counts_all_revived():
    quantizer = make_residual(dead_code_threshold=0.1, ema_decay=0.0)
    z_e = torch.tensor([[[1.0, 1.5]]])
    assert quantizer.update(z_e, torch.tensor([[[0, 1], [0, 1]]])) == 2
    assert quantizer.layers[0].codebook[1].item() in (1.0, 1.5)
    assert quantizer.layers[1].codebook[0].item() in (1.0, 1.5)


# Grouped

PAIRS = torch.tensor([[[1.0, 12.0], [1.0, 2.0]]])  # (1, 1) -> (0, 2), (12, 2) -> (10, 2)
PAIR_CODES = [[[0, 1], [1, 1]]]


def test_grouped_codes_vectors_and_losses_by_hand():
    quantizer = make_grouped()
    out = quantizer(PAIRS)
    assert out.codes.tolist() == PAIR_CODES
    assert quantizer.encode(PAIRS).tolist() == PAIR_CODES
    joined = torch.tensor([[[0.0, 10.0], [2.0, 2.0]]])
    torch.testing.assert_close(out.z_q, joined)
    assert torch.equal(quantizer.decode(out.codes), joined)
    loss = ((1 + 4) / 2 + (1 + 0) / 2) / 2
    assert out.losses["codebook"].item() == pytest.approx(loss)
    assert out.losses["commitment"].item() == pytest.approx(loss)


def test_groups_are_neighbouring_channels():
    quantizer = fill(
        GroupedQuantizer(GroupedConfig(codebook_dim=4, **PLAIN)),
        torch.tensor([[0.0, 0.0], [1.0, 1.0]]),
        torch.tensor([[2.0, 2.0], [3.0, 4.0]]),
    )
    out = quantizer(torch.tensor([0.1, 0.2, 2.9, 4.1]).view(1, 4, 1))
    assert out.codes.tolist() == [[[0, 1]]]
    assert out.z_q.flatten().tolist() == pytest.approx([0.0, 0.0, 3.0, 4.0])


def test_grouped_update_moves_each_codebook_by_its_channels():
    quantizer = make_grouped()
    assert quantizer.update(PAIRS, torch.tensor(PAIR_CODES)) == 0
    torch.testing.assert_close(quantizer.layers[0].codebook, torch.tensor([[0.5], [11.0]]))
    # No vector for the first code; 1 and 2 with 2 for the second.
    torch.testing.assert_close(quantizer.layers[1].codebook, torch.tensor([[-1.0], [5 / 3]]))


def test_grouped_starts_each_codebook_from_its_channels():
    quantizer = make_grouped()
    quantizer.initialize(PAIRS)
    assert sorted(quantizer.layers[0].codebook.flatten().tolist()) == [1.0, 12.0]
    assert sorted(quantizer.layers[1].codebook.flatten().tolist()) == [1.0, 2.0]


# Both


@pytest.mark.parametrize(("kind", "config"), [(ResidualQuantizer, ResidualConfig), (GroupedQuantizer, GroupedConfig)])
def test_z_e_is_normalised_once_over_all_its_channels(kind, config):
    settings = {"codebook_size": 8, "codebook_dim": 4, "dead_code_threshold": 0.0}
    quantizer, plain = kind(config(**settings)), kind(config(**settings, normalize_z_e=False))
    plain.load_state_dict(quantizer.state_dict())
    z_e = 3 + 5 * torch.randn(2, 4, 6)
    normalised = F.layer_norm(z_e.movedim(1, -1), (4,)).movedim(-1, 1)
    for one, given in ((quantizer, z_e), (plain, normalised)):
        one.initialize(given)
        one.update(given, one.encode(given))
    out, wanted = quantizer(z_e), plain(normalised)
    assert torch.equal(out.codes, wanted.codes)
    torch.testing.assert_close(out.losses, wanted.losses)
    torch.testing.assert_close(quantizer.state_dict(), plain.state_dict())


@pytest.mark.parametrize("config", [ResidualConfig(num_quantizers=3), GroupedConfig(num_groups=4)])
def test_as_many_codebooks_as_codes(config):
    quantizer = (ResidualQuantizer if config.type == "residual" else GroupedQuantizer)(config)
    assert len(quantizer.layers) == config.num_codebooks == config.codes_per_position
    assert all(isinstance(layer, VectorQuantizer) for layer in quantizer.layers)
    assert quantizer.code_vectors() is None


@pytest.mark.parametrize("quantizer", [make_residual(), make_grouped()], ids=["residual", "grouped"])
def test_codes_by_codebook_are_those_of_each_place(quantizer):
    first, second = quantizer.by_codebook(torch.tensor([[[0, 1], [1, 1], [1, 0]], [[0, 0], [0, 1], [0, 0]]]))
    assert first.tolist() == [[0, 1, 1], [0, 0, 0]]
    assert second.tolist() == [[1, 1, 0], [0, 1, 0]]


# Settings


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (ResidualConfig, {"num_quantizers": 1}, "num_quantizers` must be at least 2, found 1"),
        (ResidualConfig, {"distance": "cosine"}, "distance` must be l2 for `quantizer.type` residual"),
        (ResidualConfig, {"codebook_size": 0}, "codebook_size` must be at least 1, found 0"),
        (GroupedConfig, {"num_groups": 1}, "num_groups` must be at least 2, found 1"),
        (
            GroupedConfig,
            {"codebook_dim": 8, "num_groups": 3},
            "8 must be divisible by `quantizer.num_groups` 3",
        ),
    ],
)
def test_wrong_settings_are_named(config, settings, message):
    with pytest.raises(UserError, match=message):
        config(**settings)
