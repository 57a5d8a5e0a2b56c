"""A hierarchy of codes: how many, in which order, what each depends on and changes, and its way to a picture."""

import copy
import json
import math

import pytest
import torch
from torch import Tensor

from vqlm.data_prep import SequenceConfig, TextConfig, load_collection, load_pictures, prepare
from vqlm.lm import LanguageModelConfig, SamplingConfig
from vqlm.lm.settings import LMTrainingConfig
from vqlm.lm.train.loop import train_lm
from vqlm.training.errors import UserError
from vqlm.vq import VQVAE, HierarchicalConfig, NetworkConfig, VQVAEConfig
from vqlm.vq.quantizers import HierarchicalQuantizer
from vqlm.vq.settings import VQTrainingConfig
from vqlm.vq.train import train_vq

SETTINGS = {"codebook_size": 8, "codebook_dim": 3, "level_channels": 6, "level_residual_layers": 1}
WIDTH = SETTINGS["level_channels"]
# Positions of the encoder, levels, and the positions of each level by hand.
LEVELS = [
    ((8,), 2, [(4,), (8,)]),
    ((8,), 3, [(2,), (4,), (8,)]),
    ((8, 8), 2, [(4, 4), (8, 8)]),
    ((8, 8), 3, [(2, 2), (4, 4), (8, 8)]),
    ((4, 12), 3, [(1, 3), (2, 6), (4, 12)]),
    ((2, 4, 6), 2, [(1, 2, 3), (2, 4, 6)]),
    ((4, 4, 8), 3, [(1, 1, 2), (2, 2, 4), (4, 4, 8)]),
]


def make_quantizer(positions: tuple[int, ...], **settings) -> HierarchicalQuantizer:
    """Started from random features."""
    quantizer = HierarchicalQuantizer(HierarchicalConfig(**SETTINGS | settings), positions)
    quantizer.initialize(torch.randn(16, WIDTH, *positions))
    return quantizer


def seen_by_levels(quantizer: HierarchicalQuantizer, z_e: Tensor) -> list[Tensor]:
    """What each level's codebook is given of z_e, the top level first."""
    seen: list[Tensor] = []
    hooks = [level.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for level in quantizer.quantizers]
    with torch.no_grad():
        quantizer(z_e)
    for hook in hooks:
        hook.remove()
    return seen


def as_rows(vectors: Tensor) -> Tensor:
    return vectors.movedim(1, -1).flatten(0, -2)


# How many codes, and in which order


@pytest.mark.parametrize(
    ("positions", "num_levels", "number"),
    [
        ((8, 8), 2, 16 + 64),
        ((8, 8), 3, 4 + 16 + 64),
        ((12,), 2, 6 + 12),
        ((12,), 3, 3 + 6 + 12),
        ((4, 4, 4), 2, 8 + 64),
    ],
)
def test_number_of_codes_by_hand(positions, num_levels, number):
    config = HierarchicalConfig(num_levels=num_levels, **SETTINGS)
    assert config.code_shape(positions) == (number,)
    assert config.num_codebooks == num_levels
    codes = make_quantizer(positions, num_levels=num_levels).encode(torch.randn(2, WIDTH, *positions))
    assert codes.shape == (2, number)


@pytest.mark.parametrize(("positions", "num_levels", "shapes"), LEVELS)
def test_levels_are_split_top_first_and_joined_again(positions, num_levels, shapes):
    quantizer, number = make_quantizer(positions, num_levels=num_levels), sum(map(math.prod, shapes))
    codes = torch.stack([torch.arange(number), torch.arange(number) + 1000])
    parts = quantizer.by_codebook(codes)
    assert [tuple(part.shape[1:]) for part in parts] == shapes
    first, second = math.prod(shapes[0]), math.prod(shapes[1])
    assert parts[0][0].flatten().tolist() == list(range(first))
    assert parts[1][1].flatten().tolist() == list(range(1000 + first, 1000 + first + second))
    assert torch.equal(torch.cat([part.flatten(1) for part in parts], 1), codes)


def test_codes_of_a_level_are_in_their_places_row_by_row():
    top, bottom = make_quantizer((2, 4)).by_codebook(torch.arange(10).view(1, 10))
    assert top.tolist() == [[[0, 1]]]
    assert bottom.tolist() == [[[2, 3, 4, 5], [6, 7, 8, 9]]]


# Encoding and decoding


@pytest.mark.parametrize(("positions", "num_levels", "shapes"), LEVELS)
def test_codes_are_in_range_and_decode_to_what_forward_gives(positions, num_levels, shapes):
    quantizer, z_e = make_quantizer(positions, num_levels=num_levels), torch.randn(3, WIDTH, *positions)
    out, codes = quantizer(z_e), quantizer.encode(z_e)
    assert torch.equal(codes, out.codes)
    assert torch.equal(codes, quantizer.encode(z_e))
    assert 0 <= codes.min() < codes.max() < 8
    assert out.z_q.shape == (3, 3 + WIDTH, *positions)
    assert torch.equal(quantizer.decode(codes), quantizer.decode(codes))
    torch.testing.assert_close(quantizer.decode(codes), out.z_q, atol=1e-5, rtol=1e-5)
    for level, part in zip(quantizer.quantizers, quantizer.by_codebook(codes), strict=True):
        assert len(part.unique()) > 1, level


def test_losses_are_sums_over_levels():
    quantizer, z_e = make_quantizer((8, 8), num_levels=3), torch.randn(2, WIDTH, 8, 8)
    parts = [level(seen) for level, seen in zip(quantizer.quantizers, seen_by_levels(quantizer, z_e), strict=True)]
    losses = quantizer(z_e).losses
    assert losses.keys() == {"codebook", "commitment"}
    for name, loss in losses.items():
        torch.testing.assert_close(loss, sum(part.losses[name] for part in parts))


def changed_by(quantizer: HierarchicalQuantizer, codes: Tensor, place: int) -> Tensor:
    """How much the decoded vectors change, (channels, *positions), when one code of one picture does."""
    other = codes.clone()
    other[0, place] = (other[0, place] + 1) % quantizer.codebook_size
    return (quantizer.decode(other) - quantizer.decode(codes))[0].abs()


def test_a_bottom_code_changes_its_own_vector_alone():
    quantizer = make_quantizer((8, 8))
    changed = changed_by(quantizer, quantizer.encode(torch.randn(1, WIDTH, 8, 8)), 16 + 2 * 8 + 5)
    assert changed[:3, 2, 5].max() > 0.1
    changed[:3, 2, 5] = 0
    assert changed.max() == 0


def test_a_top_code_changes_the_context_of_its_region():
    quantizer = make_quantizer((32, 32))
    changed = changed_by(quantizer, quantizer.encode(torch.randn(1, WIDTH, 32, 32)), 0)
    bottom_codes, context = changed[:3], changed[3:].mean(0)
    assert bottom_codes.max() == 0  # the bottom codes are the same
    # Three layers of 3x3 reach 3 positions of the top level; beyond them only the norm over all positions does.
    assert context[:2, :2].mean() > 10 * context[10:, 10:].mean()


def test_a_code_in_the_middle_leaves_the_top_level_s_part_alone():
    quantizer = make_quantizer((8, 8), num_levels=3)
    codes = quantizer.encode(torch.randn(1, WIDTH, 8, 8))
    changed = changed_by(quantizer, codes, 4 + 5)
    assert changed[:3].max() == 0
    assert changed[3:].max() > 0.01


def test_bottom_codes_depend_on_the_top_codes():
    quantizer, z_e = make_quantizer((8, 8)), torch.randn(4, WIDTH, 8, 8)
    top, bottom = quantizer.by_codebook(quantizer.encode(z_e))
    codebook = quantizer.quantizers[0].codebook
    codebook.copy_(codebook[0].expand_as(codebook).clone())  # all codes mean the same, and no feature is another
    _, without = quantizer.by_codebook(quantizer.encode(z_e))
    assert 0.02 < (without != bottom).float().mean() < 1
    quantizer.quantizers[1].codebook.neg_()
    top_again, _ = quantizer.by_codebook(quantizer.encode(z_e))
    quantizer.quantizers[1].codebook.neg_()
    assert torch.equal(top_again, quantizer.by_codebook(quantizer.encode(z_e))[0])  # and not the other way round


# Training


@pytest.mark.parametrize("num_levels", [2, 3])
@pytest.mark.parametrize("positions", [(8,), (8, 8), (4, 4, 8)], ids=len)
def test_gradients_reach_all_levels_and_all_networks_between(positions, num_levels):
    quantizer = make_quantizer(positions, num_levels=num_levels, codebook_training="gradient")
    z_e = torch.randn(2, WIDTH, *positions, requires_grad=True)
    seen: list[Tensor] = []
    for level in quantizer.quantizers:
        level.register_forward_pre_hook(lambda _, given: (given[0].retain_grad(), seen.append(given[0]))[0])
    out = quantizer(z_e)
    (out.z_q * torch.randn_like(out.z_q)).sum().backward(retain_graph=True)  # what the decoder would send back
    for vectors in [z_e, *seen]:
        assert vectors.grad.isfinite().all()
        assert vectors.grad.flatten(2).abs().sum(1).min() > 0  # at every position
    networks = {name: p for name, p in quantizer.named_parameters() if not name.startswith("quantizers.")}
    assert {name for name, parameter in networks.items() if not parameter.grad.abs().sum() > 0} == set()
    out.losses["codebook"].backward()
    for level in quantizer.quantizers:
        assert level.codebook.grad.abs().sum() > 0


def test_the_commitment_of_the_bottom_level_moves_the_encoder():
    quantizer, z_e = make_quantizer((8, 8)), torch.randn(2, WIDTH, 8, 8, requires_grad=True)
    quantizer(z_e).losses["commitment"].backward()
    assert z_e.grad.flatten(2).abs().sum(1).min() > 0


@pytest.mark.parametrize(("positions", "num_levels", "shapes"), LEVELS)
def test_each_level_has_a_codebook_of_its_own_started_from_its_own_vectors(positions, num_levels, shapes):
    quantizer = HierarchicalQuantizer(HierarchicalConfig(num_levels=num_levels, **SETTINGS), positions)
    z_e = torch.randn(8, WIDTH, *positions)
    quantizer.initialize(z_e)
    assert len(quantizer.quantizers) == num_levels
    codebooks = [level.codebook for level in quantizer.quantizers]
    for number, (level, seen) in enumerate(zip(quantizer.quantizers, seen_by_levels(quantizer, z_e), strict=True)):
        rows = as_rows(level.normalize(seen))
        distance = torch.cdist(codebooks[number], rows, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
        assert distance.max() < 1e-4
        assert not any(torch.equal(codebooks[number], other) for other in codebooks[:number])


@pytest.mark.parametrize(
    "settings",
    [{}, {"num_levels": 3}, {"normalize_z_e": False}, {"distance": "cosine"}, {"codebook_training": "simvq"}]
    + [{"ema_decay": 0.0, "dead_code_threshold": 1.0}],
    ids=str,
)
def test_update_moves_each_level_as_a_quantizer_given_what_it_saw(settings):
    quantizer = make_quantizer((4, 8), **{"ema_decay": 0.5} | settings)
    z_e = torch.randn(4, WIDTH, 4, 8) + 1
    out, seen = quantizer(z_e), seen_by_levels(quantizer, z_e)
    alone = [copy.deepcopy(level) for level in quantizer.quantizers]
    parts = quantizer.by_codebook(out.codes)
    revived = [level.update(vectors, part) for level, vectors, part in zip(alone, seen, parts, strict=True)]
    before = [level.ema_sum.clone() for level in quantizer.quantizers]
    for weight in quantizer.parameters():  # the step of the optimizer, which comes between
        weight.data += torch.randn_like(weight)
    assert quantizer.update(out.vectors.detach(), out.codes) == sum(revived)
    for level, wanted, start in zip(quantizer.quantizers, alone, before, strict=True):
        assert torch.equal(level.ema_sum, wanted.ema_sum)
        assert torch.equal(level.ema_count, wanted.ema_count)
        assert torch.equal(level.codebook, wanted.codebook)
        assert not torch.equal(level.ema_sum, start)


def test_training_lowers_the_loss(picture_folder, tiny_vqvae_config, tmp_path):
    tiny_vqvae_config.quantizer = HierarchicalConfig(**SETTINGS)
    pictures = load_pictures(load_collection(str(picture_folder)), (16, 16)).train
    config = VQTrainingConfig(max_steps=20, batch_size=8, mixed_precision="no", log_every=1, learning_rate=2e-2)
    model = train_vq(pictures, pictures[:4], tmp_path / "vq", tiny_vqvae_config, config)
    lines = (tmp_path / "vq" / "run" / "log.jsonl").read_text().splitlines()
    losses = [line["reconstruction_loss"] for line in map(json.loads, lines) if "reconstruction_loss" in line]
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    assert model.encode(torch.zeros(1, 3, 16, 16)).shape == (1, 4 + 16)


# In a model


@pytest.mark.parametrize(
    ("input_shape", "num_levels", "number"),
    [
        ([16], 3, 1 + 2 + 4),
        ([16, 32], 2, 2 * 4 + 4 * 8),
        ([16, 16], 3, 1 + 4 + 16),
        ([8, 8, 16], 2, 1 * 1 * 2 + 2 * 2 * 4),
    ],
    ids=str,
)
def test_saved_and_loaded_gives_equal_outputs(input_shape, num_levels, number, tmp_path):
    network = NetworkConfig(input_shape=input_shape, strides=[2, 2], stem_channels=4, hidden_channels=6)
    quantizer = HierarchicalConfig(num_levels=num_levels, **SETTINGS)
    model, pixel_values = VQVAE(VQVAEConfig(network=network, quantizer=quantizer)), torch.rand(2, 3, *input_shape)
    model.quantizer.initialize(model.encode_continuous(pixel_values))
    model.eval().save_pretrained(tmp_path)
    loaded = VQVAE.from_pretrained(tmp_path)
    assert loaded.config.quantizer == quantizer
    assert loaded.fingerprint() == model.fingerprint()
    out, wanted = loaded(pixel_values), model(pixel_values)
    assert out.codes.shape == (2, number) == (2, model.config.tokens_per_image)
    assert torch.equal(out.codes, wanted.codes)
    # A matrix product may round its last bit otherwise where a file's weights lie at another address.
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(dict(out), dict(wanted), **close)
    torch.testing.assert_close(loaded.decode_codes(out.codes), model.decode_codes(wanted.codes), **close)


def test_from_pictures_to_a_drawn_one(picture_folder, tiny_vqvae_config, tmp_path):
    tiny_vqvae_config.quantizer = HierarchicalConfig(**SETTINGS)
    collection = load_collection(str(picture_folder))
    pictures = load_pictures(collection, (16, 16)).train
    short = {"max_steps": 3, "batch_size": 4, "mixed_precision": "no"}
    model = train_vq(pictures, pictures[:2], tmp_path / "vq", tiny_vqvae_config, VQTrainingConfig(**short))
    prepared = prepare(collection, model, tmp_path / "data", "pictures", TextConfig(size=300))
    assert prepared.tokens_per_image == 4 + 16
    assert prepared.manifest["code_shape"] == [20]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    pipeline = train_lm(
        prepared, tmp_path / "model", LanguageModelConfig(**sizes), LMTrainingConfig(compile="no", **short),
        SequenceConfig(), SamplingConfig(),
    )  # fmt: skip
    drawn = pipeline(["red square", None])
    assert drawn.codes.shape == (2, 20)
    assert [picture.size for picture in drawn.images] == [(16, 16)] * 2


# What is refused


@pytest.mark.parametrize(
    ("positions", "num_levels", "divisor"), [((4, 5), 2, 2), ((3,), 2, 2), ((4, 6), 3, 4), ((4, 4, 2), 3, 4)]
)
def test_positions_that_cannot_be_halved_are_refused(positions, num_levels, divisor):
    message = f"num_levels` {num_levels} halves the .* {num_levels - 1} times, so each must be divisible by {divisor};"
    with pytest.raises(UserError, match=message):
        make_quantizer(positions, num_levels=num_levels)
    network = NetworkConfig(input_shape=[4 * n for n in positions], strides=[2, 2])
    with pytest.raises(UserError, match=message):
        VQVAEConfig(network=network, quantizer=HierarchicalConfig(num_levels=num_levels))


@pytest.fixture
def model(tiny_vqvae_config) -> VQVAE:
    """16x16 pictures, 4x4 positions, 20 codes."""
    return VQVAE(VQVAEConfig(network=tiny_vqvae_config.network, quantizer=HierarchicalConfig(**SETTINGS))).eval()


def test_a_picture_of_another_size_is_refused(model):
    for take in (model, model.encode):
        with pytest.raises(UserError, match=r"size it was built for, \(4, 4\) positions; found \(8, 4\)"):
            take(torch.zeros(1, 3, 32, 16))


def test_another_number_of_codes_is_refused(model):
    for number in (19, 21):
        with pytest.raises(UserError, match=rf"codes must be \(batch, 20\), found shape \(1, {number}\)"):
            model.decode_codes(torch.zeros(1, number, dtype=torch.int64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_levels": 1}, "`quantizer.num_levels` must be 2 or 3, found 1; one is `quantizer.type` vq"),
        ({"num_levels": 4}, "`quantizer.num_levels` must be 2 or 3, found 4"),
        ({"level_channels": 0}, "`quantizer.level_channels` must be at least 1, found 0"),
        ({"level_residual_layers": 0}, "`quantizer.level_residual_layers` must be at least 1, found 0"),
        ({"codebook_size": 0}, "`quantizer.codebook_size` must be at least 1, found 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        HierarchicalConfig(**settings)
