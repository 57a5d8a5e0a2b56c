"""The quantizer against values worked out by hand: codes, losses, each gradient, running means, revival, start."""

import pytest
import torch

from vqlm.training.errors import UserError
from vqlm.vq.quantizers import VectorQuantizer, straight_through
from vqlm.vq.quantizers.settings import VQConfig

CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
# Three vectors (1, D=2, 3): (0.1, 0.2) -> 0, (0.9, -0.2) -> 1, (0.4, 1.1) -> 2; the last corner is never the nearest.
Z_E = torch.tensor([[[0.1, 0.9, 0.4], [0.2, -0.2, 1.1]]])
CODES = [[0, 1, 2]]
LOSS = (0.05 + 0.05 + 0.17) / 6  # squared distances over N * D elements


def make_quantizer(codebook: torch.Tensor, **settings) -> VectorQuantizer:
    """A quantizer of exactly these codes, each with a running count of 1."""
    size, dim = codebook.shape
    quantizer = VectorQuantizer(VQConfig(codebook_size=size, codebook_dim=dim, **{"normalize_z_e": False} | settings))
    quantizer.codebook.data.copy_(codebook)
    quantizer.ema_sum.copy_(codebook)
    return quantizer


def as_z_e(*values: float) -> torch.Tensor:
    """One-dimensional vectors as a batch of one series, (1, 1, N)."""
    return torch.tensor(values).view(1, 1, -1)


def state_of(module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same_state(module, before: dict[str, torch.Tensor]) -> None:
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# Values


@pytest.mark.parametrize("codebook_training", ["ema", "gradient"])
def test_codes_vectors_and_losses_by_hand(codebook_training):
    out = make_quantizer(CORNERS, codebook_training=codebook_training)(Z_E)
    assert out.codes.tolist() == CODES
    torch.testing.assert_close(out.z_q, torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]))
    assert out.losses["codebook"].item() == pytest.approx(LOSS)
    assert out.losses["commitment"].item() == pytest.approx(LOSS)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_any_number_of_dimensions(shape):
    z_e = torch.randn(7, 4, *shape)
    quantizer = make_quantizer(torch.randn(9, 4))
    out = quantizer(z_e)
    assert out.z_q.shape == z_e.shape
    assert out.codes.shape == (7, *shape)
    last = (-1,) * len(shape)
    assert torch.equal(out.codes[(6, *last)], (z_e[(6, slice(None), *last)] - quantizer.codebook).norm(dim=1).argmin())
    assert torch.equal(quantizer.decode(out.codes)[(6, slice(None), *last)], quantizer.codebook[out.codes[(6, *last)]])


def test_forward_changes_no_state_in_training():
    quantizer = VectorQuantizer(VQConfig(codebook_size=8, codebook_dim=4)).train()
    before = state_of(quantizer)
    quantizer(torch.randn(3, 4, 5, 5))
    assert_same_state(quantizer, before)


def test_fp32_under_autocast():
    quantizer, z_e = make_quantizer(1 + 0.01 * torch.randn(64, 16)), torch.randn(2, 16, 5, 7).bfloat16()
    exact = quantizer(z_e)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = quantizer(z_e)
    assert {out.z_q.dtype, out.losses["codebook"].dtype, out.losses["commitment"].dtype} == {torch.float32}
    torch.testing.assert_close(out._asdict(), exact._asdict(), atol=0, rtol=0)


# Gradients, each loss term by itself


@pytest.fixture
def leaves():
    """A quantizer whose codebook has gradients, and z_e with gradients."""
    return make_quantizer(CORNERS, codebook_training="gradient"), Z_E.clone().requires_grad_()


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    z_e, z_q = torch.tensor([[0.3]], requires_grad=True), torch.tensor([[1.0]], requires_grad=True)
    out = straight_through(z_e, z_q)
    (5 * out).backward()
    assert out.item() == 1.0
    assert z_e.grad.item() == 5.0
    assert z_q.grad is None


def test_reconstruction_gradient_passes_unchanged_to_z_e_alone(leaves):
    quantizer, z_e = leaves
    weight = torch.tensor([[[1.0, -2.0, 3.0], [0.5, 0.0, -7.0]]])
    (quantizer(z_e).z_q * weight).sum().backward()
    assert torch.equal(z_e.grad, weight)
    assert quantizer.codebook.grad is None


def test_codebook_loss_moves_the_codebook_alone(leaves):
    quantizer, z_e = leaves
    quantizer(z_e).losses["codebook"].backward()
    away = torch.tensor([[-0.1, -0.2], [0.1, 0.2], [-0.4, -0.1], [0.0, 0.0]])  # e - z_e, none for the unused corner
    torch.testing.assert_close(quantizer.codebook.grad, 2 / 6 * away)
    assert z_e.grad is None


def test_commitment_loss_moves_z_e_alone(leaves):
    quantizer, z_e = leaves
    quantizer(z_e).losses["commitment"].backward()
    away = torch.tensor([[[0.1, -0.1, 0.4], [0.2, -0.2, 0.1]]])  # z_e - e
    torch.testing.assert_close(z_e.grad, 2 / 6 * away)
    assert quantizer.codebook.grad is None


def test_an_ema_codebook_has_no_gradient():
    quantizer, z_e = make_quantizer(CORNERS), Z_E.clone().requires_grad_()
    assert list(quantizer.parameters()) == []
    assert not quantizer(z_e).losses["codebook"].requires_grad


# Running means


def test_two_updates_by_hand():
    quantizer = make_quantizer(torch.tensor([[0.0], [10.0]]), ema_decay=0.5, dead_code_threshold=0.0)
    assert quantizer.update(as_z_e(2.0, 4.0, 12.0), torch.tensor([[0, 0, 1]])) == 0
    torch.testing.assert_close(quantizer.ema_count, torch.tensor([1.5, 1.0]))  # (1 + 2) / 2, (1 + 1) / 2
    torch.testing.assert_close(quantizer.ema_sum, torch.tensor([[3.0], [11.0]]))  # (0 + 6) / 2, (10 + 12) / 2
    torch.testing.assert_close(quantizer.codebook, torch.tensor([[2.0], [11.0]]))
    quantizer.update(as_z_e(3.0), torch.tensor([[0]]))
    torch.testing.assert_close(quantizer.ema_count, torch.tensor([1.25, 0.5]))
    torch.testing.assert_close(quantizer.ema_sum, torch.tensor([[3.0], [5.5]]))
    torch.testing.assert_close(quantizer.codebook, torch.tensor([[2.4], [11.0]]))
    assert quantizer.num_updates == 2


def test_update_leaves_a_gradient_codebook_alone():
    quantizer = make_quantizer(CORNERS, codebook_training="gradient", dead_code_threshold=0.0)
    quantizer.update(Z_E, torch.tensor(CODES))
    assert torch.equal(quantizer.codebook, CORNERS)
    assert not torch.equal(quantizer.ema_count, torch.ones(4))


# Revival


def dying_quantizer(codebook_training: str) -> VectorQuantizer:
    """Code 1 lies far from all vectors, and one more step without any puts it below the threshold."""
    quantizer = make_quantizer(
        torch.tensor([[0.0], [100.0]]), codebook_training=codebook_training, ema_decay=0.9, dead_code_threshold=0.1
    )
    quantizer.ema_count[1], quantizer.ema_sum[1] = 0.1, 10.0
    return quantizer


@pytest.mark.parametrize("codebook_training", ["ema", "gradient"])
def test_a_dead_code_becomes_a_vector_of_the_step(codebook_training):
    quantizer, z_e = dying_quantizer(codebook_training), as_z_e(1.0, 2.0, 3.0)
    live = quantizer.codebook[0].item()
    assert quantizer.update(z_e, quantizer.encode(z_e)) == 1
    revived = quantizer.codebook[1].item()
    assert revived in (1.0, 2.0, 3.0)
    assert quantizer.ema_count[1] == 1
    assert quantizer.ema_sum[1].item() == revived
    moved = (0.9 * 0 + 0.1 * 6) / (0.9 * 1 + 0.1 * 3)
    assert quantizer.codebook[0].item() == (live if codebook_training == "gradient" else pytest.approx(moved))


@pytest.mark.parametrize("codebook_training", ["ema", "gradient"])
def test_a_revived_code_survives_steps_that_do_not_use_it(codebook_training):
    quantizer = dying_quantizer(codebook_training)
    quantizer.update(as_z_e(1.0, 2.0, 3.0), torch.tensor([[0, 0, 0]]))
    revived = quantizer.codebook[1].item()
    for _ in range(10):
        assert quantizer.update(as_z_e(-5.0), torch.tensor([[0]])) == 0
        assert quantizer.codebook[1].item() == pytest.approx(revived)


def test_a_threshold_of_zero_never_revives():
    quantizer = make_quantizer(torch.tensor([[0.0], [100.0]]), ema_decay=0.0, dead_code_threshold=0.0)
    for _ in range(3):
        assert quantizer.update(as_z_e(1.0), torch.tensor([[0]])) == 0


@pytest.mark.parametrize("codebook_size", [1024, 16_384, 65_536])
def test_codes_that_are_all_used_alike_are_never_replaced(codebook_size):
    """With the default batch, 2,048 vectors per step, a code of a large codebook waits many steps for its turn."""
    quantizer = VectorQuantizer(VQConfig(codebook_size=codebook_size, codebook_dim=1))
    generator = torch.Generator().manual_seed(0)
    z_e = torch.zeros(32, 1, 8, 8)
    for _ in range(400):
        assert quantizer.update(z_e, torch.randint(codebook_size, (32, 8, 8), generator=generator)) == 0


def test_the_threshold_is_a_share_of_the_mean_count_where_that_is_below_1():
    """2 vectors for 8 codes: 0.25 each on average, so that a count of 0.1 * 0.25 is the least that lives."""
    quantizer = make_quantizer(torch.arange(8.0).view(8, 1), ema_decay=0.99, dead_code_threshold=0.1)
    quantizer.ema_count.fill_(0.0254 / 0.99)
    quantizer.ema_count[5] = 0.0246 / 0.99
    assert quantizer.update(as_z_e(0.0, 1.0), torch.tensor([[0, 1]])) == 1
    assert quantizer.ema_count[5] == 1.0
    assert quantizer.codebook[5].item() in (0.0, 1.0)


def test_a_code_of_a_large_codebook_that_is_never_used_is_replaced():
    quantizer = VectorQuantizer(VQConfig(codebook_size=16_384, codebook_dim=1, ema_decay=0.9))
    z_e, generator = torch.zeros(32, 1, 8, 8), torch.Generator().manual_seed(0)
    revived = 0
    for _ in range(60):  # 0.9 ** 42 is below 0.1 * 2,048 / 16,384
        revived += quantizer.update(z_e, torch.randint(8192, (32, 8, 8), generator=generator))
    assert revived >= 8192


def test_more_dead_codes_than_vectors():
    quantizer = make_quantizer(100 + torch.rand(6, 2), ema_decay=0.0)
    assert quantizer.update(Z_E, torch.zeros(1, 3, dtype=torch.int64)) == 5
    revived = quantizer.codebook[1:]
    assert len(revived.unique(dim=0)) == 5
    assert torch.cdist(revived, Z_E[0].T).min(1).values.max() < 0.1


# Start


def test_z_e_is_compared_with_mean_0_and_variance_1_over_its_channels():
    quantizer, z_e = make_quantizer(torch.randn(9, 4), normalize_z_e=True), torch.randn(2, 4, 3)
    normalised = (z_e - z_e.mean(1, keepdim=True)) / (z_e.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    plain = make_quantizer(quantizer.codebook)
    out, expected = quantizer(z_e), plain(normalised)
    assert torch.equal(out.codes, expected.codes)
    assert torch.equal(quantizer.encode(z_e), expected.codes)
    torch.testing.assert_close(out.losses, expected.losses)
    assert quantizer.update(z_e, out.codes) == plain.update(normalised, out.codes)
    torch.testing.assert_close(quantizer.codebook, plain.codebook)


def test_sample_takes_different_encoder_outputs():
    quantizer = VectorQuantizer(VQConfig(codebook_size=5, codebook_dim=3, normalize_z_e=False))
    z_e = torch.randn(2, 3, 4, 4)
    quantizer.initialize(z_e)
    rows = torch.cdist(
        quantizer.codebook, z_e.movedim(1, -1).reshape(-1, 3), compute_mode="donot_use_mm_for_euclid_dist"
    )
    assert rows.min(1).values.max() == 0
    assert len(rows.argmin(1).unique()) == 5
    assert torch.equal(quantizer.ema_sum, quantizer.codebook)
    assert torch.equal(quantizer.ema_count, torch.ones(5))


def test_fewer_vectors_than_codes():
    quantizer = VectorQuantizer(VQConfig(codebook_size=8, codebook_dim=2, normalize_z_e=False))
    quantizer.initialize(Z_E)
    distance = torch.cdist(quantizer.codebook, Z_E[0].T)
    assert len(quantizer.codebook.unique(dim=0)) == 8
    assert set(distance[:3].argmin(1).tolist()) == {0, 1, 2}
    assert distance.min(1).values.max() < 0.1


def test_one_number_as_start_is_finite():
    quantizer = VectorQuantizer(VQConfig(codebook_size=3, codebook_dim=1, normalize_z_e=False))
    quantizer.initialize(as_z_e(2.0))
    assert quantizer.codebook.flatten().tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("order", [(0.0, 1.0, 10.0, 11.0), (10.0, 11.0, 0.0, 1.0), (0.0, 10.0, 1.0, 11.0)])
def test_kmeans_finds_clusters(order):
    quantizer = VectorQuantizer(VQConfig(codebook_size=2, codebook_dim=1, initialization="kmeans", normalize_z_e=False))
    quantizer.initialize(as_z_e(*order))
    assert sorted(quantizer.codebook.flatten().tolist()) == [0.5, 10.5]


@pytest.mark.parametrize("codebook_training", ["ema", "gradient"])
def test_random_keeps_what_it_has(codebook_training):
    settings = VQConfig(codebook_size=8, codebook_dim=4, initialization="random", codebook_training=codebook_training)
    quantizer = VectorQuantizer(settings)
    before = state_of(quantizer)
    quantizer.initialize(torch.randn(3, 4, 5))
    assert_same_state(quantizer, before)


# Settings


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codebook_size": 0}, "codebook_size` must be at least 1, found 0"),
        ({"codebook_dim": -1}, "codebook_dim` must be at least 1, found -1"),
        ({"ema_decay": 1.0}, r"ema_decay` must lie in \[0, 1\), found 1.0"),
        ({"ema_decay": -0.1}, "found -0.1"),
        ({"commitment_weight": -1.0}, "commitment_weight` must be at least 0, found -1.0"),
        ({"dead_code_threshold": -1.0}, "dead_code_threshold` must be at least 0, found -1.0"),
        ({"codebook_training": "adam"}, "codebook_training` must be one of ema, gradient, simvq, found 'adam'"),
        ({"initialization": "zeros"}, "initialization` must be one of sample, kmeans, random, found 'zeros'"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        VQConfig(**settings)
