"""Training stage one: augmentation, what a run saves, that it learns, stops, continues, is not overwritten."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vqlm.training.watching.samples
import vqlm.vq.train
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json
from vqlm.training.run import Run
from vqlm.training.stop_signals import Interrupted
from vqlm.vq import VQVAE
from vqlm.vq.quantizers.vector import layer_norm
from vqlm.vq.settings import VQTrainingConfig
from vqlm.vq.train import augment, evaluate_reconstruction, initialize_codebook, train_vq

pytestmark = pytest.mark.slow

CONFIG = VQTrainingConfig(max_steps=8, batch_size=8, mixed_precision="no", log_every=2, eval_every=4)


@pytest.fixture
def pictures(picture_folder) -> torch.Tensor:
    """(24, 3, 16, 16) uint8."""
    files = sorted(picture_folder.glob("*.png"))
    return torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])


@pytest.fixture
def train(pictures, tiny_vqvae_config, tmp_path):
    """`train_vq` on the pictures; `output` is a name, other arguments change the training settings."""

    def run(output: str = "vq", resume: bool = False, **changes) -> VQVAE:
        config = replace(CONFIG, **changes)
        return train_vq(pictures, pictures[:4], tmp_path / output, tiny_vqvae_config, config, {"data": "tiny"}, resume)

    return run


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]


def assert_same_weights(model, other) -> None:
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


# Augmentation


def test_flip_of_1_mirrors_every_picture():
    pixel_values = torch.randn(5, 3, 4, 6)
    assert torch.equal(augment(pixel_values, flip=1.0, max_shift=0), pixel_values.flip(3))


def test_flip_of_a_half_mirrors_some_pictures_and_no_others():
    pixel_values = torch.randn(64, 3, 4, 6)
    out = augment(pixel_values, flip=0.5, max_shift=0)
    mirrored = (out == pixel_values.flip(3)).flatten(1).all(1)
    kept = (out == pixel_values).flatten(1).all(1)
    assert torch.equal(mirrored, ~kept)
    assert 16 < mirrored.sum() < 48


def test_without_augmentation_pictures_stay():
    pixel_values = torch.randn(5, 3, 4, 6)
    assert torch.equal(augment(pixel_values, flip=0.0, max_shift=0), pixel_values)


def test_shift_is_a_crop_of_the_pictures_with_their_edges_repeated():
    pixel_values = torch.randn(2, 3, 4, 6)
    padded = torch.nn.functional.pad(pixel_values, [1, 1, 1, 1], mode="replicate")
    crops = [padded[:, :, y : y + 4, x : x + 6] for y in range(3) for x in range(3)]
    indices = set()
    for _ in range(100):
        out = augment(pixel_values, flip=0.0, max_shift=1)
        indices |= {index for index, crop in enumerate(crops) if torch.equal(crop, out)} or {"no crop"}
    assert indices == set(range(9))


@pytest.mark.parametrize("shape", [(9,), (4, 6), (3, 4, 6)])
def test_augmentation_keeps_the_shape(shape):
    assert augment(torch.randn(2, 3, *shape), flip=0.5, max_shift=2).shape == (2, 3, *shape)


# The codebook's start, and evaluation


def test_codebook_starts_from_encoder_outputs(tiny_vqvae_config, pictures):
    model = VQVAE(tiny_vqvae_config)
    initialize_codebook(model, pictures)
    z_e = layer_norm(model.encode_continuous(vqlm.vq.train.to_pixel_values(pictures))).movedim(1, -1).reshape(-1, 4)
    distance = torch.cdist(model.quantizer.codebook, z_e, compute_mode="donot_use_mm_for_euclid_dist")
    assert distance.min(1).values.max() < 1e-4
    assert evaluate_reconstruction(model, pictures)["held_out_usage"] == 1


def test_evaluation_measures_what_comes_back(tiny_vqvae, pictures):
    tiny_vqvae.train()
    figures = evaluate_reconstruction(tiny_vqvae, pictures)
    assert tiny_vqvae.training
    pixel_values = vqlm.vq.train.to_pixel_values(pictures)
    codes = tiny_vqvae.encode(pixel_values)
    error = (tiny_vqvae.decode_codes(codes) - pixel_values).square().mean((1, 2, 3))
    assert figures["held_out_psnr_db"] == pytest.approx((10 * (4 / error).log10()).mean().item(), abs=1e-3)
    assert figures["held_out_usage"] == len(codes.unique()) / 16


# A run


def test_a_run_leaves_the_model_and_its_record(train, tmp_path):
    model = train()
    folder = tmp_path / "vq"
    names = {str(path.relative_to(folder)) for path in files_of(folder)}
    assert names >= {"config.json", "model.safetensors", "reconstructions.png", "run/summary.json", "run/log.jsonl"}
    assert not model.training
    assert_same_weights(model, VQVAE.from_pretrained(folder))
    assert Image.open(folder / "reconstructions.png").size == (4 * 20, 2 * 20)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["steps"] == 8
    assert summary.keys() >= {"seconds", "held_out_psnr_db", "held_out_perplexity", "held_out_usage"}
    assert VQVAE.from_pretrained(folder).config.training_record == model.config.training_record == summary
    log = log_of(folder)
    assert [line["step"] for line in log if "reconstruction_loss" in line] == [2, 4, 6, 8]
    assert sum("held_out_psnr_db" in line for line in log) == 2
    assert all("perplexity" in line for line in log if "reconstruction_loss" in line)


def test_training_lowers_the_reconstruction_loss(train, tmp_path):
    train(max_steps=60, log_every=10, learning_rate=1e-2)
    losses = [line["reconstruction_loss"] for line in log_of(tmp_path / "vq") if "reconstruction_loss" in line]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("codebook_training", ["ema", "gradient"])
def test_training_moves_the_codebook(train, tiny_vqvae_config, monkeypatch, codebook_training):
    tiny_vqvae_config.quantizer.codebook_training = codebook_training
    tiny_vqvae_config.quantizer.dead_code_threshold = 0.0  # or revival would move it
    start = []

    def initialize_and_note(model, pictures):
        initialize_codebook(model, pictures)
        start.append(model.quantizer.codebook.detach().clone())

    monkeypatch.setattr(vqlm.vq.train, "initialize_codebook", initialize_and_note)
    model = train()
    moved = (model.quantizer.codebook - start[0]).abs().amax(1) > 1e-4
    assert moved.any()


def test_series_are_trained_without_a_picture_of_them(tmp_path, tiny_vqvae_config):
    tiny_vqvae_config.network = replace(tiny_vqvae_config.network, input_shape=[16])
    series = torch.randint(0, 256, (24, 3, 16), dtype=torch.uint8)
    train_vq(series, series[:4], tmp_path / "vq", tiny_vqvae_config, replace(CONFIG, max_steps=2, max_shift=1))
    assert (tmp_path / "vq" / "model.safetensors").exists()
    assert not (tmp_path / "vq" / "reconstructions.png").exists()


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_arrays_of_any_number_of_channels_train_to_the_end(tmp_path, tiny_vqvae_config, channels):
    tiny_vqvae_config.network = replace(tiny_vqvae_config.network, in_channels=channels)
    arrays = torch.randint(0, 256, (24, channels, 16, 16), dtype=torch.uint8)
    model = train_vq(arrays, arrays[:4], tmp_path / "vq", tiny_vqvae_config, replace(CONFIG, max_steps=2))
    assert model.encode(vqlm.vq.train.to_pixel_values(arrays[:4])).shape == (4, 4, 4)
    assert Image.open(tmp_path / "vq" / "reconstructions.png").size == (4 * 20, 2 * 20)


def test_a_model_is_saved_before_it_is_drawn(train, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no font")

    monkeypatch.setattr(vqlm.vq.train, "save_reconstructions", fail)
    with pytest.raises(OSError, match="no font"):
        train()
    assert json.loads((tmp_path / "vq" / "run" / "summary.json").read_text())["steps"] == 8
    VQVAE.from_pretrained(tmp_path / "vq")


# Stopping and continuing


@pytest.fixture
def stop_at(monkeypatch):
    """Sends this process SIGTERM in the step given, once."""

    def arrange(step: int) -> None:
        advance = Run._advance

        def advance_and_stop(run):
            if run.state.step + 1 == step:
                monkeypatch.setattr(Run, "_advance", advance)
                signal.raise_signal(signal.SIGTERM)
            advance(run)

        monkeypatch.setattr(Run, "_advance", advance_and_stop)

    def unexpected(*_):
        raise AssertionError("the run does not handle SIGTERM")

    before = signal.signal(signal.SIGTERM, unexpected)
    yield arrange
    assert signal.getsignal(signal.SIGTERM) is unexpected  # the run gave back what it had replaced
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("step", [3, 4], ids=["end of an epoch", "inside an epoch"])
@pytest.mark.parametrize("codebook_training", ["ema", "gradient"])
def test_resumed_equals_uninterrupted(train, stop_at, tiny_vqvae_config, tmp_path, step, codebook_training):
    tiny_vqvae_config.quantizer.codebook_training = codebook_training
    augmented = {"flip": 0.5, "max_shift": 1}
    whole = train("whole", **augmented)
    stop_at(step)
    with pytest.raises(Interrupted) as stopped:
        train("halves", **augmented)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "halves" / "model.safetensors").exists()
    halves = train("halves", resume=True, **augmented)
    assert_same_weights(whole, halves)
    assert (tmp_path / "halves" / "run" / "summary.json").exists()


def test_another_seed_is_another_model(train):
    assert train("first", seed=0).fingerprint() == train("second", seed=0).fingerprint()
    assert train("third", seed=1).fingerprint() != train("fourth", seed=2).fingerprint()


def test_a_finished_run_is_not_trained_again(train, monkeypatch):
    model = train()

    def no_training(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Run, "batches", no_training)
    assert train(resume=True).fingerprint() == model.fingerprint()


def test_a_larger_budget_continues_a_finished_run(train, tmp_path):
    model = train()
    longer = train(resume=True, max_steps=12)
    assert json.loads((tmp_path / "vq" / "run" / "summary.json").read_text())["steps"] == 12
    assert longer.fingerprint() != model.fingerprint()


@pytest.mark.parametrize(
    ("changes", "setting"),
    [({"learning_rate": 0.5}, "learning_rate` is 0.005, now 0.5"), ({"seed": 7}, "seed` is 0, now 7")],
)
def test_another_run_s_folder_is_refused(train, tmp_path, changes, setting):
    train()
    before = files_of(tmp_path / "vq")
    with pytest.raises(UserError, match=f"holds another run: its `{setting}"):
        train(resume=True, **changes)
    assert files_of(tmp_path / "vq") == before


def test_other_pictures_are_another_run(train, pictures, tiny_vqvae_config, tmp_path):
    train()
    with pytest.raises(UserError, match="its `data` is 'tiny', now 'other'"):
        train_vq(pictures, pictures[:4], tmp_path / "vq", tiny_vqvae_config, CONFIG, {"data": "other"}, resume=True)


def test_without_resume_nothing_is_written_over(train, tmp_path):
    train()
    before = files_of(tmp_path / "vq")
    with pytest.raises(UserError, match="`resume`"):
        train()
    assert files_of(tmp_path / "vq") == before


# While it trains


def test_samples_are_drawn_and_change_nothing(train, tmp_path, monkeypatch):
    monkeypatch.setattr(vqlm.training.watching.samples, "SECONDS_BEFORE_FIRST", 0.0)
    with_samples, without = train("with", sample_every=0.25), train("without", sample_every=0.0)
    assert_same_weights(with_samples, without)
    folder = tmp_path / "with" / "run" / "samples"
    assert {path.name for path in folder.glob("*.png")} >= {"originals.png", "strip.png", "00000002.png"}
    assert read_json(folder / "names.json")[0] == "held-out picture 1"
    assert not (tmp_path / "without" / "run" / "samples").exists()
    assert read_json(tmp_path / "with" / "run" / "summary.json")["sample_seconds"] >= 0
    train("with", sample_every=0.5, resume=True)  # no other run


def test_averaged_weights_are_evaluated_and_saved(train, tmp_path):
    plain = train("plain", max_steps=12)
    averaged = train("averaged", max_steps=12, weight_ema_decay=0.9)
    name = "decoder." + next(name for name, _ in plain.decoder.named_parameters())
    assert not torch.equal(plain.state_dict()[name], averaged.state_dict()[name])
    assert_same_weights(averaged, VQVAE.from_pretrained(tmp_path / "averaged"))
    checkpoint = load_file(tmp_path / "averaged" / "run" / "checkpoint" / "model.safetensors")
    assert torch.equal(checkpoint[name], plain.state_dict()[name])  # the weights themselves go on as without
    with pytest.raises(Interrupted):
        train("halves", max_steps=12, weight_ema_decay=0.9, stop_after=5)
    assert_same_weights(train("halves", max_steps=12, weight_ema_decay=0.9, resume=True), averaged)
