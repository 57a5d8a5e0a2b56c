"""Training with losses beyond L2, over steps that fail, with pictures that can't be learned, and what it warns of."""

import itertools
import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import ResNetBackbone, ResNetConfig

import vqlm.training.run
import vqlm.vq.train
from vqlm.training.errors import UserError
from vqlm.training.folders.checkpoint import RunState
from vqlm.training.run import Run
from vqlm.training.stop_signals import Interrupted
from vqlm.training.watching.log import TrainingLog
from vqlm.training.watching.progress import Progress
from vqlm.vq import VQVAE, VQConfig, VQVAEConfig, to_pixel_values
from vqlm.vq.settings import LossConfig, VQTrainingConfig
from vqlm.vq.train import _LoggedUsage, check_values, train_vq

pytestmark = pytest.mark.slow


@pytest.fixture
def pictures() -> torch.Tensor:
    """(32, 3, 16, 16) uint8: a gradient of one colour to another in each."""
    ends = torch.randint(0, 256, (2, 32, 3, 1, 1)).float()
    return torch.lerp(ends[0], ends[1], torch.linspace(0, 1, 16).expand(16, 16)).byte()


@pytest.fixture
def train(pictures, tiny_vqvae_config, tmp_path):
    def run(output: str = "vq", resume: bool = False, **changes) -> list[dict]:
        config = VQTrainingConfig(
            **{"max_steps": 40, "batch_size": 8, "mixed_precision": "no", "log_every": 5} | changes
        )
        train_vq(pictures, pictures[:4], tmp_path / output, tiny_vqvae_config, config, resume=resume)
        lines = [json.loads(line) for line in (tmp_path / output / "run" / "log.jsonl").read_text().splitlines()]
        return [line for line in lines if "reconstruction_loss" in line]

    return run


def test_l1_is_trained(train):
    log = train(loss=LossConfig(reconstruction="l1"), learning_rate=1e-2)
    assert log[-1]["reconstruction_loss"] < 0.8 * log[0]["reconstruction_loss"]


def test_features_of_a_network_are_trained(train, tmp_path):
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    ResNetBackbone(config).save_pretrained(tmp_path / "resnet")
    loss = LossConfig(perceptual_weight=1.0, perceptual_network=str(tmp_path / "resnet"))
    log = train(loss=loss, learning_rate=1e-2)
    assert log[-1]["perceptual_loss"] < log[0]["perceptual_loss"]


ADVERSARIAL = LossConfig(adversarial_weight=0.5, adversarial_start=60, discriminator_channels=8)


def test_the_discriminator_begins_at_its_step_and_destroys_nothing(train):
    log = train(max_steps=120, loss=ADVERSARIAL, learning_rate=1e-2)
    for line in log:
        assert ("generator_loss" in line) == ("discriminator_loss" in line) == (line["step"] > 60)
    before = next(line for line in log if line["step"] == 60)["reconstruction_loss"]
    assert log[-1]["reconstruction_loss"] < 1.5 * before
    assert log[-1]["reconstruction_loss"] < 0.5 * log[0]["reconstruction_loss"]


def test_the_discriminator_begins_at_half_of_the_budget_by_default(train):
    log = train(max_steps=10, log_every=1, loss=LossConfig(adversarial_weight=0.5, discriminator_channels=8))
    assert [line["step"] for line in log if "discriminator_loss" in line] == [6, 7, 8, 9, 10]


def test_the_discriminator_begins_at_its_share_of_a_budget_of_minutes(train, monkeypatch):
    monkeypatch.setattr(vqlm.training.run, "time", SimpleNamespace(monotonic=itertools.count().__next__))  # 1 s a look
    loss = LossConfig(adversarial_weight=0.5, adversarial_start=0.25, discriminator_channels=8)
    log = train(max_steps=None, max_minutes=0.2, log_every=1, loss=loss)
    first = next(line for line in log if "discriminator_loss" in line)
    assert first["seconds"] == 4  # the first step that starts after 3 of 12 seconds


def test_the_last_step_is_evaluated_once(train, monkeypatch):
    evaluated = []
    evaluate = vqlm.vq.train.evaluate_reconstruction
    monkeypatch.setattr(
        vqlm.vq.train, "evaluate_reconstruction", lambda *given: evaluated.append(1) or evaluate(*given)
    )
    train("often", max_steps=4, eval_every=2)
    assert len(evaluated) == 2
    train("seldom", max_steps=4, eval_every=3)
    assert len(evaluated) == 4  # the budget's last step is an evaluation too


def test_an_adversarial_run_continues_exactly(train, tmp_path, monkeypatch):
    loss = LossConfig(adversarial_weight=0.5, adversarial_start=2, discriminator_channels=8)
    train("whole", max_steps=8, loss=loss)
    advance = Run._advance

    def advance_and_stop(run):
        if run.state.step + 1 == 5:
            monkeypatch.setattr(Run, "_advance", advance)
            signal.raise_signal(signal.SIGTERM)
        advance(run)

    monkeypatch.setattr(Run, "_advance", advance_and_stop)
    with pytest.raises(Interrupted):
        train("halves", max_steps=8, loss=loss)
    train("halves", max_steps=8, loss=loss, resume=True)
    whole, halves = (VQVAE.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "halves"))
    assert all(torch.equal(tensor, halves[name]) for name, tensor in whole.items())


def test_a_skipped_step_leaves_the_codebook_alone(train, monkeypatch):
    step, taken_steps = Run.step, []

    def fail_at_3(run, loss, model, *optimizers):
        if run.state.step != 3:
            return step(run, loss, model, *optimizers)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        taken = step(run, loss * torch.nan, model, *optimizers)
        taken_steps.append((model, before, taken))
        return taken

    monkeypatch.setattr(Run, "step", fail_at_3)
    updated = []
    update = vqlm.vq.quantizers.VectorQuantizer.update
    monkeypatch.setattr(
        vqlm.vq.quantizers.VectorQuantizer, "update", lambda *given: updated.append(1) or update(*given), raising=True
    )
    log = train(max_steps=6, log_every=1)
    assert taken_steps[0][2] is False
    assert len(updated) == 5
    assert log[-1]["skipped_steps"] == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.tensor([0.0, torch.nan, 0.5, 0.1]), "finite; picture 1 of 4 holds NaN"),
        (torch.tensor([0.0, 0.1, 2.0, -3.0]), r"lie in \[-1, 1\], found -3 to 2; scale them"),
        (torch.full((4,), 0.1), "values of the pictures are equal"),
    ],
)
def test_values_that_teach_nothing_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        check_values(values.view(4, 1, 1).expand(4, 3, 8))


def test_variance_by_hand():
    pictures = torch.tensor([0, 255, 0, 255], dtype=torch.uint8).view(4, 1, 1)
    assert check_values(pictures) == pytest.approx(1)  # of -1 1 -1 1


def test_variance_is_that_of_all_pictures_and_not_of_some():
    pictures = torch.randint(0, 256, (3000, 2, 2), dtype=torch.uint8)
    pictures[::2] //= 8
    assert check_values(pictures) == pytest.approx(to_pixel_values(pictures).double().var(correction=0).item())


def test_a_constant_picture_among_others_is_trained_on(train, pictures):
    pictures[3] = 7
    log = train(max_steps=5)
    assert torch.isfinite(torch.tensor(log[-1]["reconstruction_loss"]))


def test_a_collapse_is_warned_of_once_while_training(train, tiny_vqvae_config, capsys):
    tiny_vqvae_config.quantizer = VQConfig(
        codebook_size=64, codebook_dim=4, initialization="random", dead_code_threshold=0.0, normalize_z_e=False
    )
    train(max_steps=60, log_every=20)
    said = [line for line in capsys.readouterr().err.splitlines() if "warning, step" in line]
    assert len([line for line in said if "unused" in line]) == 1
    assert "of 64 codes are unused. Set `quantizer.dead_code_threshold` to 0.1" in said[0]


def test_a_collapse_of_a_large_codebook_is_warned_of(capsys):
    """Between two log lines of the default batch come 50 * 2,048 codes: 13 times that is 20 for each code."""
    run = Run.__new__(Run)
    run.config, run.state = VQTrainingConfig(max_steps=100), RunState(step=50)
    run._log, run.progress = TrainingLog(Path("log.jsonl"), writes=False), Progress("test")
    usage = _LoggedUsage(VQVAEConfig(quantizer=VQConfig(codebook_size=65_536)))
    for window in range(1, 30):
        usage.add(torch.randint(32_768, (50 * 2048,)))
        usage.log(run)
        assert usage.has_warned == (window >= 13)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("[test] warning, step 51: 50% of 65536 codes are unused.")


def test_a_healthy_run_warns_of_nothing(train, capsys):
    train(max_steps=60, log_every=20)
    assert "warning" not in capsys.readouterr().err


def test_sizes_that_do_not_fit_are_padded_in_training(pictures, tiny_vqvae_config, tmp_path):
    tiny_vqvae_config.network.input_shape = [15, 13]
    tiny_vqvae_config.network.size_mismatch = "pad"
    config = VQTrainingConfig(max_steps=2, batch_size=8, mixed_precision="no")
    odd = pictures[..., :15, :13]
    model = train_vq(odd, odd[:4], tmp_path / "vq", tiny_vqvae_config, config)
    codes = VQVAE.from_pretrained(tmp_path / "vq").encode(vqlm.vq.train.to_pixel_values(odd))
    assert codes.shape == (32, 4, 4)
    assert model.decode_codes(codes).shape == odd.shape


@pytest.mark.parametrize(("shape", "precision"), [([8, 8], "auto"), ([4, 8, 8], "no")])
def test_volumes_are_not_trained_in_bf16_on_a_cpu(unchecked_types, tiny_vqvae_config, tmp_path, shape, precision):
    tiny_vqvae_config.network.input_shape = shape
    values = torch.rand(16, 3, *shape) * 2 - 1
    train_vq(values, values[:4], tmp_path / "vq", tiny_vqvae_config, VQTrainingConfig(max_steps=2, batch_size=8))
    settings = json.loads((tmp_path / "vq" / "run" / "settings.json").read_text())
    assert settings["mixed_precision"] == precision
