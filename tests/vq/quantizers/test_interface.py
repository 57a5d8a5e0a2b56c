"""What every quantizer promises, in one, two and three dimensions, and in a saved model."""

import math
import re

import pytest
import torch

from vqlm.training.errors import UserError
from vqlm.vq import VQVAE, VQVAEConfig
from vqlm.vq.quantizers import Quantizer
from vqlm.vq.quantizers.build import QUANTIZERS, build_quantizer
from vqlm.vq.quantizers.settings import CONFIGS, QuantizerConfig, quantizer_config

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
    "hierarchical": {"type": "hierarchical", "codebook_size": 16, "codebook_dim": 4, "level_channels": 8},
}
SHAPES = [(6,), (4, 6), (2, 4, 6)]
# A code of a hierarchy depends on its surroundings, by networks that keep the autocast.
BY_POSITION = [settings for settings in SETTINGS.values() if settings["type"] != "hierarchical"]
each_by_position = pytest.mark.parametrize("settings", BY_POSITION, ids=list(SETTINGS)[:-1])


@pytest.fixture(params=SETTINGS)
def settings(request) -> dict:
    return SETTINGS[request.param]


@pytest.fixture
def config(settings) -> QuantizerConfig:
    return quantizer_config(settings)


@pytest.fixture(params=SHAPES, ids=len)
def shape(request) -> tuple[int, ...]:
    return request.param


@pytest.fixture
def quantizer(config, shape) -> Quantizer:
    """Started from encoder outputs, in training mode."""
    quantizer = build_quantizer(config, shape)
    quantizer.initialize(torch.randn(8, config.encoder_dim, *shape))
    return quantizer.train()


@pytest.fixture
def z_e(config, shape) -> torch.Tensor:
    return torch.randn(2, config.encoder_dim, *shape)


def test_every_type_is_here():
    assert {settings["type"] for settings in SETTINGS.values()} == set(QUANTIZERS) == set(CONFIGS)
    for name, config in CONFIGS.items():
        assert config().type == name


# Vectors and codes


def test_codes_are_whole_numbers_below_the_size(quantizer, config, z_e, shape):
    out = quantizer(z_e)
    assert out.codes.dtype == torch.int64
    assert out.codes.shape == (2, *config.code_shape(shape))
    assert 0 <= out.codes.min() < out.codes.max() < quantizer.codebook_size
    assert (out.z_q.shape, out.z_q.dtype) == ((2, config.decoder_dim, *shape), torch.float32)


@pytest.mark.parametrize(
    ("settings", "code_shape"),
    [
        (SETTINGS["vq"], (4, 6)),
        (SETTINGS["fsq"], (4, 6)),
        (SETTINGS["residual"], (4, 6, 3)),
        (SETTINGS["grouped"], (4, 6, 2)),
        (SETTINGS["hierarchical"], (2 * 3 + 4 * 6,)),
    ],
    ids=["vq", "fsq", "residual", "grouped", "hierarchical"],
)
def test_shapes_of_codes_by_hand(config, code_shape):
    assert config.code_shape((4, 6)) == code_shape


def test_all_codes_belong_to_a_codebook(quantizer, config, z_e):
    codes = quantizer.encode(z_e)
    parts = quantizer.by_codebook(codes)
    assert len(parts) == config.num_codebooks
    assert sum(part.numel() for part in parts) == codes.numel()
    together = torch.cat([part.flatten() for part in parts])
    assert torch.equal(together.sort().values, codes.flatten().sort().values)


def test_encode_and_decode_agree_with_forward(quantizer, z_e):
    out, codes = quantizer(z_e), quantizer.encode(z_e)
    assert torch.equal(codes, out.codes)
    torch.testing.assert_close(quantizer.decode(codes), out.z_q, atol=1e-6, rtol=1e-5)


@each_by_position
def test_a_vector_keeps_its_code_beside_others(quantizer, z_e):
    last = (slice(-1, None), slice(None), *[slice(-1, None)] * (z_e.ndim - 2))
    alone, codes = quantizer.encode(z_e[last]), quantizer.encode(z_e)
    assert torch.equal(alone.flatten(), codes[(-1, *[-1] * (z_e.ndim - 2))].flatten())


def test_code_vectors_are_what_decode_gives(quantizer, config):
    vectors = quantizer.code_vectors()
    if config.num_codebooks > 1:
        assert vectors is None
    else:
        assert torch.equal(quantizer.decode(torch.arange(quantizer.codebook_size).view(1, -1))[0].T, vectors)


def test_forward_changes_no_state(quantizer, z_e):
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer(z_e)
    quantizer.encode(z_e)
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@each_by_position
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
    (loss + (out.z_q * torch.randn_like(out.z_q)).sum()).backward()
    assert z_e.grad.isfinite().all()
    assert z_e.grad.flatten(2).abs().sum(1).min() > 0  # at every position
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_steps_keep_codes_within_the_size(quantizer, z_e):
    for _ in range(3):
        out = quantizer(z_e)
        assert 0 <= quantizer.update(out.vectors, out.codes) <= quantizer.codebook_size * 3
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
    assert torch.equal(flat[0], codes[0].flatten())
    if (several := model.config.quantizer.codes_per_position) > 1:
        assert torch.equal(flat[0, :several], codes[0, 0, 0])
    assert torch.equal(model.unflatten_codes(flat), codes)


def test_a_wrong_number_of_codes_a_position_is_refused(model):
    wrong = (1, 4, 4, model.config.quantizer.codes_per_position + 1)
    expected = f"codes must be (batch, {', '.join(map(str, model.config.code_shape))}), found shape {wrong}."
    with pytest.raises(UserError, match=re.escape(expected)):
        model.decode_codes(torch.zeros(wrong, dtype=torch.int64))


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_a_constant_picture_gives_finite_vectors_losses_and_gradients(model, value):
    picture = torch.full((1, 3, 16, 16), value)
    assert model.decode_codes(model.encode(picture)).isfinite().all()
    out = model.train()(picture)
    (out.reconstruction.square().mean() + sum(out.losses.values())).backward()
    assert all(loss.isfinite() for loss in out.losses.values())
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"type": "tree"},
            "quantizer.type` must be one of vq, fsq, lfq, residual, grouped, hierarchical, found 'tree'",
        ),
        ({"levels": [5, 5]}, "type vq has no setting 'levels'; it knows type, codebook_size, "),
        ({"type": "fsq", "codebook_size": 16}, "type fsq has no setting 'codebook_size'; it knows type, levels"),
        ({"type": "lfq", "ema_decay": 0.5}, "type lfq has no setting 'ema_decay'"),
        ({"type": "residual", "num_groups": 2}, "type residual has no setting 'num_groups'; .*num_quantizers"),
        ({"type": "grouped", "num_quantizers": 2}, "type grouped has no setting 'num_quantizers'; .*num_groups"),
        ({"type": "hierarchical", "num_groups": 2}, "type hierarchical has no setting 'num_groups'; .*num_levels"),
    ],
)
def test_an_unknown_type_or_a_setting_of_another_is_named(settings, message):
    for take in (quantizer_config, lambda settings: VQVAEConfig(quantizer=settings)):
        with pytest.raises(UserError, match=message):
            take(settings)


def test_a_quantizer_is_vq_unless_said():
    assert quantizer_config({"codebook_size": 7}).type == "vq"


@torch.no_grad()
def test_a_model_in_bf16_encodes_and_decodes(model):
    """Most codes are those of fp32, and a decoded picture differs by rounding alone."""
    model.eval()
    pixel_values = torch.rand(4, 3, *model.config.network.input_shape) * 2 - 1
    model.quantizer.initialize(model.encode_continuous(pixel_values))
    codes = model.encode(pixel_values)
    reconstruction = model.decode_codes(codes)
    model.to(torch.bfloat16)
    assert (model.encode(pixel_values) == codes).double().mean() > 0.5
    assert torch.equal(model.encode(pixel_values.bfloat16()), model(pixel_values.bfloat16()).codes)
    assert (model.decode_codes(codes) - reconstruction).abs().mean() < 0.05
