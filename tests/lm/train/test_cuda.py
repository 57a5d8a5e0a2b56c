"""Stage two on a GPU learns what it learns on the CPU: in each precision, compiled, resumed, by DDP and by FSDP2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from transformers import AutoModelForCausalLM

from vqlm.data_prep import SequenceConfig
from vqlm.lm import SamplingConfig
from vqlm.lm.settings import LMTrainingConfig
from vqlm.lm.train.loop import train_lm
from vqlm.training.folders.whole_files import read_json
from vqlm.training.machine.device import is_bf16_fast, is_fp16_fast
from vqlm.training.stop_signals import Interrupted

pytestmark = pytest.mark.cuda

DEVICE, STEPS = "cuda", 12
CLEAN = SequenceConfig(caption_dropout=0.0, word_dropout=0.0, code_noise=0.0)


@pytest.fixture
def train(prepared, tiny_config, tmp_path, monkeypatch):
    """train("bf16", mixed_precision="bf16"): image NLL of each step that was not skipped."""

    def run(name: str, device: str = DEVICE, resume: bool = False, sequences=CLEAN, **settings) -> list[float]:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        torch.manual_seed(0)
        monkeypatch.setenv("ACCELERATE_USE_CPU", str(device == "cpu").lower())
        defaults = {
            "max_steps": STEPS, "batch_size": 4, "compile": "no", "mixed_precision": "no", "log_every": 1,
            "embedding_dropout": 0.0, "sample_every": 0.0,
        }  # fmt: skip
        train_lm(
            prepared, tmp_path / name, tiny_config(spread=0.05), LMTrainingConfig(**(defaults | settings)), sequences,
            SamplingConfig(), resume,
        )  # fmt: skip
        return figures_of(tmp_path / name)

    return run


def figures_of(output: Path) -> list[float]:
    lines = map(json.loads, (output / "run" / "log.jsonl").read_text().splitlines())
    return [line["image_nll"] for line in lines if "image_nll" in line]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_steps_are_those_of_the_cpu(train, optimizer):
    on_cpu, there = train("on_cpu", "cpu", optimizer=optimizer), train("there", optimizer=optimizer)
    assert len(there) == STEPS
    assert there[0] == pytest.approx(on_cpu[0], rel=1e-4)  # before any update
    assert there == pytest.approx(on_cpu, rel=5e-3)
    assert there[-1] < 0.95 * there[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_as_fp32_does(train, tmp_path, precision):
    device = torch.device(DEVICE)
    if not {"bf16": is_bf16_fast, "fp16": is_fp16_fast}[precision](device):
        pytest.skip(f"this GPU has no {precision}")
    exact, half = train("fp32"), train("half", mixed_precision=precision)
    skipped = read_json(tmp_path / "half" / "run" / "summary.json")["skipped_steps"]
    assert len(half) + skipped == STEPS
    assert half[0] != exact[0]  # else it was not used
    assert half[0] == pytest.approx(exact[0], rel=2e-2)
    assert half[-1] == pytest.approx(exact[-1 - skipped], rel=5e-2)
    assert skipped <= (2 if precision == "fp16" else 0)


def test_compiled_steps_are_those_of_eager_ones(train, capsys, unchecked_types):
    eager, compiled = train("eager"), train("compiled", compile="yes")
    assert "compiled in" in "".join(capsys.readouterr())
    assert compiled == pytest.approx(eager, rel=5e-3)


def test_checkpointed_gradients_are_the_same(train):
    plain = train("plain")
    assert train("checkpointed", gradient_checkpointing=True) == pytest.approx(plain, rel=1e-3)


def test_resumed_equals_uninterrupted_with_dropout(train):
    settings = {"embedding_dropout": 0.3, "sequences": SequenceConfig()}  # drawn on the GPU, and on the CPU
    whole = train("whole", **settings)
    with pytest.raises(Interrupted):
        train("parts", stop_after=STEPS // 2, **settings)
    assert train("parts", resume=True, **settings) == pytest.approx(whole, rel=1e-3)


def test_one_process_of_torchrun_trains_as_a_plain_one(prepared, tmp_path):
    def command(name: str, *options: str) -> list[str]:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        return [
            "-m", "vqlm", "train-lm", "--data", str(prepared.folder), "--output", str(tmp_path / name),
            "--max-steps", str(STEPS), "--batch-size", "4", "--compile", "no", "--mixed-precision", "no",
            "--log-every", "1", "--embedding-dropout", "0", "--sample-every", "0", "--resume", "true",
            *(word for key, value in sizes.items() for word in (f"--model.{key}", str(value))), *options,
        ]  # fmt: skip

    def run(*words: str, **environment: str) -> None:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]

    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    environment = {"ACCELERATE_USE_CPU": str(DEVICE == "cpu").lower()}
    run(*command("plain"), **environment)
    plain = figures_of(tmp_path / "plain")
    assert len(plain) == STEPS
    for kind in ("ddp", "fsdp2"):
        sharding = {"ACCELERATE_USE_FSDP": str(kind == "fsdp2").lower(), "FSDP_VERSION": "2"}
        run(*launch, *command(kind, "--stop-after", str(STEPS // 2)), **environment, **sharding)
        assert (tmp_path / kind / "run" / "checkpoint" / "sharded").exists() == (kind == "fsdp2")
        run(*launch, *command(kind), **environment, **sharding)
        assert figures_of(tmp_path / kind) == pytest.approx(plain, rel=1e-3)
        nats = [read_json(tmp_path / name / "run" / "summary.json")["held_out_image_nll"] for name in ("plain", kind)]
        assert nats[1] == pytest.approx(nats[0], rel=1e-3)
        assert AutoModelForCausalLM.from_pretrained(tmp_path / kind).num_parameters() > 0
