"""Stage one on a GPU learns what it learns on the CPU, for quantizers of each kind, with the adversary, in fp16."""

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from vqlm.training.folders.whole_files import read_json
from vqlm.training.machine.device import is_bf16_fast, is_fp16_fast
from vqlm.training.stop_signals import Interrupted
from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig
from vqlm.vq.quantizers.settings import CONFIGS
from vqlm.vq.settings import LossConfig, VQTrainingConfig
from vqlm.vq.train import train_vq

pytestmark = pytest.mark.cuda

DEVICE, STEPS = "cuda", 8
SMALL = {"codebook_size": 16, "codebook_dim": 4}
QUANTIZERS = {
    "vq": VQConfig(**SMALL),
    "simvq": VQConfig(**SMALL, codebook_training="simvq"),
    "fsq": CONFIGS["fsq"](levels=[4, 4]),
    "lfq": CONFIGS["lfq"](codebook_size=16),
    "residual": CONFIGS["residual"](**SMALL),
    "hierarchical": CONFIGS["hierarchical"](**SMALL, level_channels=8, level_residual_layers=1),
}
NETWORK = NetworkConfig(input_shape=[8, 8], strides=[2, 2], stem_channels=8, hidden_channels=8, num_residual_layers=1)


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch):
    """By default a GPU rounds the factors of a convolution in fp32 to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train("there"): the finished model, and the loss of each step that was not skipped."""
    pictures = torch.randint(0, 256, (48, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def run(
        name: str, device: str = DEVICE, quantizer: str = "vq", resume: bool = False, **settings
    ) -> tuple[VQVAE, list[float]]:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        torch.manual_seed(0)
        monkeypatch.setenv("ACCELERATE_USE_CPU", str(device == "cpu").lower())
        defaults = {
            "max_steps": STEPS, "batch_size": 16, "optimizer": "adamw", "mixed_precision": "no", "log_every": 1,
            "warmup_ratio": 0.0, "flip": 0.0, "max_shift": 0, "sample_every": 0.0,
        }  # fmt: skip
        model_config = VQVAEConfig(network=NETWORK, quantizer=QUANTIZERS[quantizer])
        config = VQTrainingConfig(**(defaults | settings))
        model = train_vq(pictures, pictures[:8], tmp_path / name, model_config, config, resume=resume)
        return model, losses_of(tmp_path / name)

    return run


def losses_of(output: Path) -> list[float]:
    lines = map(json.loads, (output / "run" / "log.jsonl").read_text().splitlines())
    return [line["reconstruction_loss"] for line in lines if "reconstruction_loss" in line]


@pytest.mark.parametrize("adversarial_weight", [0.0, 0.5])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_the_steps_are_those_of_the_cpu(train, quantizer, adversarial_weight):
    loss = LossConfig(adversarial_weight=adversarial_weight, adversarial_start=2)
    _, on_cpu = train("on_cpu", "cpu", quantizer, loss=loss)
    model, there = train("there", DEVICE, quantizer, loss=loss)
    assert model.device.type == DEVICE
    assert len(there) == STEPS
    assert there[0] == pytest.approx(on_cpu[0], rel=1e-3)  # before any update
    assert there == pytest.approx(on_cpu, rel=2e-2)  # where two codes are as near, the order of a sum decides


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_as_fp32_does(train, tmp_path, precision, unchecked_types):
    if not {"bf16": is_bf16_fast, "fp16": is_fp16_fast}[precision](torch.device(DEVICE)):
        pytest.skip(f"this GPU has no {precision}")
    loss = LossConfig(adversarial_weight=0.5, adversarial_start=2)
    (_, exact), (_, half) = train("fp32", loss=loss), train("half", loss=loss, mixed_precision=precision)
    skipped = read_json(tmp_path / "half" / "run" / "summary.json")["skipped_steps"]
    assert len(half) + skipped == STEPS
    assert half[0] != exact[0]  # else it was not used
    assert half[0] == pytest.approx(exact[0], rel=5e-2)
    assert half[-1] == pytest.approx(exact[-1 - skipped], rel=0.2)
    assert skipped <= (3 if precision == "fp16" else 0)


def test_resumed_equals_uninterrupted(train):
    settings = {"flip": 0.5, "loss": LossConfig(adversarial_weight=0.5, adversarial_start=2)}  # flips by the GPU
    _, whole = train("whole", **settings)
    with pytest.raises(Interrupted):
        train("parts", stop_after=STEPS // 2, **settings)
    _, parts = train("parts", resume=True, **settings)
    assert parts == pytest.approx(whole, rel=5e-3)
