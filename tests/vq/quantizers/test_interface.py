"""What every quantizer promises, in one, two and three dimensions, and in a saved model."""

import math

import pytest
import torch

from training.errors import UserError
from vq import VQVAE, VQVAEConfig
from vq.quantizers import QUANTIZERS, Quantizer, build_quantizer, quantizer_config

SETTINGS = {
    "vq": {"type": "vq", "codebook_size": 16, "codebook_dim": 4},
    "cosine": {"type": "vq", "codebook_size": 16, "codebook_dim": 4, "distance": "cosine"},
    "gradient": {"type": "vq", "codebook_size": 16, "codebook_dim": 4, "codebook_training": "gradient"},
    "simvq": {"type": "vq", "codebook_size": 16, "codebook_dim": 4, "codebook_training": "simvq"},
    "rotation": {"type": "vq", "codebook_size": 16, "codebook_dim": 4, "gradient_estimator": "rotation"},
    "fsq": {"type": "fsq", "levels": [5, 4, 3]},
    "lfq": {"type": "lfq", "codebook_size": 32},
    "residual": {"type": "residual", "codebook_size": 16, "codebook_dim": 4, "num_quantizers": 3},
    "grouped": {"type": "grouped", "codebook_size": 16, "codebook_dim": 4},
}
SHAPES = [(5,), (3, 5), (2, 3, 5)]


@pytest.fixture(params=SETTINGS)
def settings(request) -> dict:
    return SETTINGS[request.param]


@pytest.fixture
def quantizer(settings) -> Quantizer:
    """Started from encoder outputs, in training mode."""
    config = quantizer_config(settings)
    quantizer = build_quantizer(config)
    quantizer.initialize(torch.randn(4, config.codebook_dim, 8))
    return quantizer.train()


@pytest.fixture(params=SHAPES, ids=len)
def z_e(request, settings) -> torch.Tensor:
    return torch.randn(2, quantizer_config(settings).codebook_dim, *request.param)


def test_every_type_is_here():
    assert {settings["type"] for settings in SETTINGS.values()} == set(QUANTIZERS)
    for name, (config, _) in QUANTIZERS.items():
        assert config().type == name


# Vectors and codes


def test_codes_are_whole_numbers_below_the_size(quantizer, z_e):
    out = quantizer(z_e)
    several = (quantizer.codes_per_position,) if quantizer.codes_per_position > 1 else ()
    assert out.codes.dtype == torch.int64
    assert out.codes.shape == (2, *z_e.shape[2:], *several)
    assert 0 <= out.codes.min() < out.codes.max() < quantizer.codebook_size
    assert (out.z_q.shape, out.z_q.dtype) == (z_e.shape, torch.float32)


def test_encode_and_decode_agree_with_forward(quantizer, z_e):
    out, codes = quantizer(z_e), quantizer.encode(z_e)
    assert torch.equal(codes, out.codes)
    torch.testing.assert_close(quantizer.decode(codes), out.z_q, atol=1e-6, rtol=1e-5)


def test_a_vector_keeps_its_code_beside_others(quantizer, z_e):
    last = (slice(-1, None), slice(None), *[slice(-1, None)] * (z_e.ndim - 2))
    alone, codes = quantizer.encode(z_e[last]), quantizer.encode(z_e)
    assert torch.equal(alone.flatten(), codes[(-1, *[-1] * (z_e.ndim - 2))].flatten())


def test_code_vectors_are_what_decode_gives(quantizer):
    vectors = quantizer.code_vectors()
    if quantizer.codes_per_position > 1:
        assert vectors is None
    else:
        assert torch.equal(quantizer.decode(torch.arange(quantizer.codebook_size).view(1, -1))[0].T, vectors)


def test_forward_changes_no_state(quantizer, z_e):
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer(z_e)
    quantizer.encode(z_e)
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_fp32_under_autocast(quantizer, z_e):
    z_e = z_e.bfloat16()
    exact, decoded = quantizer(z_e), quantizer.decode(quantizer.encode(z_e))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, codes = quantizer(z_e), quantizer.encode(z_e)
        assert torch.equal(quantizer.decode(codes), decoded)
    assert torch.equal(out.codes, exact.codes)
    assert torch.equal(codes, exact.codes)
    assert torch.equal(out.z_q, exact.z_q)
    for name, loss in out.losses.items():
        assert (loss.dtype, loss.item()) == (torch.float32, exact.losses[name].item()), name


# Training


def test_every_loss_has_a_weight(quantizer, z_e):
    losses = quantizer(z_e).losses
    assert set(losses) == set(quantizer.loss_weights())
    assert all(loss.ndim == 0 for loss in losses.values())


def test_finite_gradients_reach_z_e(quantizer, z_e):
    z_e.requires_grad_()
    out, loss = quantizer(z_e), torch.zeros(())
    for name, weight in quantizer.loss_weights().items():
        loss = loss + weight * out.losses[name]
    (loss + (out.z_q * torch.randn_like(z_e)).sum()).backward()
    assert z_e.grad.isfinite().all()
    assert z_e.grad.flatten(2).abs().sum(1).min() > 0  # at every position
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_steps_keep_codes_within_the_size(quantizer, z_e):
    for _ in range(3):
        assert 0 <= quantizer.update(z_e, quantizer.encode(z_e)) <= quantizer.codebook_size * 3
    codes = quantizer.encode(z_e)
    assert 0 <= codes.min() <= codes.max() < quantizer.codebook_size
    assert quantizer.decode(codes).isfinite().all()


# In a model


@pytest.fixture
def model(settings, tiny_vqvae_config) -> VQVAE:
    model = VQVAE(VQVAEConfig(network=tiny_vqvae_config.network, quantizer=settings)).eval()
    model.quantizer.initialize(model.encode_continuous(torch.rand(4, 3, 16, 16) * 2 - 1))
    return model


def test_saved_and_loaded_bit_for_bit(model, tmp_path):
    pixel_values = torch.rand(2, 3, 16, 16) * 2 - 1
    model.save_pretrained(tmp_path)
    loaded = VQVAE.from_pretrained(tmp_path)
    assert loaded.config.quantizer == model.config.quantizer
    assert loaded.fingerprint() == model.fingerprint()
    for name, buffer in model.named_buffers():  # those that are not saved too
        assert torch.equal(loaded.get_buffer(name), buffer), name
    codes = model.encode(pixel_values)
    assert torch.equal(loaded.encode(pixel_values), codes)
    assert torch.equal(loaded.decode_codes(codes), model.decode_codes(codes))


@pytest.mark.parametrize("settings", [SETTINGS["simvq"]], ids=["simvq"])
def test_a_map_that_has_moved_is_saved_and_loaded(model, tmp_path):
    pixel_values = torch.rand(2, 3, 16, 16) * 2 - 1
    model.quantizer.linear.weight.data += 0.1 * torch.randn(4, 4)
    model.save_pretrained(tmp_path)
    loaded, codes = VQVAE.from_pretrained(tmp_path), model.encode(pixel_values)
    assert loaded.fingerprint() == model.fingerprint()
    assert torch.equal(loaded.encode(pixel_values), codes)
    # A matrix product may round its last bit otherwise where a file's weights lie at another address.
    torch.testing.assert_close(loaded.decode_codes(codes), model.decode_codes(codes), atol=1e-5, rtol=0)


def test_codes_are_flattened_position_by_position_and_back(model):
    codes = model.encode(torch.rand(2, 3, 16, 16) * 2 - 1)
    assert codes.shape == (2, *model.config.code_shape)
    flat = model.flatten_codes(codes)
    assert flat.shape == (2, model.config.tokens_per_image) == (2, math.prod(codes.shape[1:]))
    assert torch.equal(flat[0, : model.quantizer.codes_per_position], codes[0, 0, 0].flatten())
    assert torch.equal(model.unflatten_codes(flat), codes)


def test_a_wrong_number_of_codes_a_position_is_refused(model):
    several = model.quantizer.codes_per_position
    with pytest.raises(UserError, match=r"codes must be \(batch, 2 spatial dimensions"):
        model.decode_codes(torch.zeros(1, 4, 4, several + 1, dtype=torch.int64))


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "tree"}, "quantizer.type must be one of vq, fsq, lfq, residual, grouped, found 'tree'"),
        ({"levels": [5, 5]}, "type vq has no setting 'levels'; it knows type, codebook_size, "),
        ({"type": "fsq", "codebook_size": 16}, "type fsq has no setting 'codebook_size'; it knows type, levels"),
        ({"type": "lfq", "ema_decay": 0.5}, "type lfq has no setting 'ema_decay'"),
        ({"type": "residual", "num_groups": 2}, "type residual has no setting 'num_groups'; .*num_quantizers"),
        ({"type": "grouped", "num_quantizers": 2}, "type grouped has no setting 'num_quantizers'; .*num_groups"),
    ],
)
def test_an_unknown_type_or_a_setting_of_another_is_named(settings, message):
    for take in (quantizer_config, lambda settings: VQVAEConfig(quantizer=settings)):
        with pytest.raises(UserError, match=message):
            take(settings)


def test_a_quantizer_is_vq_unless_said():
    assert quantizer_config({"codebook_size": 7}).type == "vq"
