"""All stages on two processes of one machine, as torchrun starts them, with nothing else said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vqlm.training.folders.whole_files import read_json
from vqlm.vq import VQVAE

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[2] / "scripts"
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


# What a person's shell would not hold.
LAUNCHER = ("ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "OMP_NUM_THREADS", "MASTER_PORT", "WORLD_SIZE")


def run(*command: object, status: int = 0) -> str:
    """What a command says on stderr; several processes of tiny nets need one thread each."""
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=600,
        env=environment | {"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == status, done.stderr[-3000:]
    return done.stderr


def start_two(name: str, *arguments: object) -> str:
    """A script on two processes; what they say on stderr."""
    return run(*LAUNCH, SCRIPTS / f"{name}.py", *arguments)


def without_precision(yaml: Path) -> Path:
    """The same settings, the precision at its default."""
    yaml.write_text(yaml.read_text().replace('mixed_precision: "no"\n', ""))
    return yaml


def test_two_processes_end_together_by_the_clock(picture_folder, vq_yaml, tmp_path):
    output = tmp_path / "vq"
    options = ["--config", without_precision(vq_yaml), "--data", picture_folder, "--output", output]
    said = start_two("train_vq", *options, "--max-steps", "100000", "--max-minutes", "0.02")
    assert said.count("[train_vq] 2 processes on cpu in ") == 1
    assert "8 x 2 = 16 rows per step" in said
    summary = read_json(output / "run" / "summary.json")
    assert 1 < summary["steps"] < 100000
    assert summary["seconds"] >= 0.02 * 60
    assert VQVAE.from_pretrained(output).config.codebook_size == 16
    states = {path.name for path in (output / "run" / "checkpoint").glob("random_states_*")}
    assert len(states) == 2  # one a process


def test_two_processes_pack_rows(call_script, picture_folder, vq_yaml, lm_yaml, tmp_path):
    """A collection of fewer rows than two batches, so that the last round of an epoch is filled up."""
    call_script("train_vq", "--config", vq_yaml, "--data", picture_folder, "--output", tmp_path / "vq")
    prepared = ["--data", picture_folder, "--image-tokenizer", tmp_path / "vq", "--output", tmp_path / "data"]
    start_two("prepare_data", *prepared)
    output = tmp_path / "model"
    options = ["--config", without_precision(lm_yaml), "--data", tmp_path / "data", "--output", output]
    said = start_two("train_lm", *options, "--max-steps", "4", "--batch-size", "16")
    assert said.count("[train_lm] 2 processes on cpu in ") == 1
    assert read_json(output / "run" / "summary.json")["steps"] == 4
    assert len(list((output / "run" / "checkpoint").glob("random_states_*"))) == 2


def test_another_number_of_processes_does_not_continue_a_run(call_script, picture_folder, vq_yaml, tmp_path):
    options = ["--config", vq_yaml, "--data", picture_folder, "--output", tmp_path / "vq"]
    call_script("train_vq", *options)
    said = run(
        *LAUNCH, SCRIPTS / "train_vq.py", *options, "--max-steps", 5, "--resume", status=1
    )  # torchrun's own status
    assert said.count("error: ") >= 1
    assert "its `num_processes` is 1, now 2" in said
    assert read_json(tmp_path / "vq" / "run" / "summary.json")["steps"] == 3


def test_accelerate_launch_says_that_it_starts_one_process_on_a_cpu(picture_folder, vq_yaml, tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", 2, SCRIPTS / "train_vq.py"]
    said = run(*launch, "--config", vq_yaml, "--data", picture_folder, "--output", tmp_path / "vq")
    assert "1 process on cpu in fp32, 8 rows per step; accelerate launch was asked for several processes" in said
