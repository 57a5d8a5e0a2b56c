"""Both stages on two processes of one machine, as torchrun starts them."""

import os
import subprocess
import sys
from pathlib import Path

from vqlm.training.files import read_json
from vqlm.vq import VQVAE

SCRIPTS = Path(__file__).parents[2] / "scripts"
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start_two(name: str, *arguments: object) -> None:
    """A script on two processes."""
    done = subprocess.run(
        [sys.executable, *LAUNCH, str(SCRIPTS / f"{name}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"ACCELERATE_USE_CPU": "true"},  # as `accelerate launch --cpu` sets it
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_end_together_by_the_clock(picture_folder, vq_yaml, tmp_path):
    output = tmp_path / "vq"
    options = ["--config", vq_yaml, "--data", picture_folder, "--output", output]
    start_two("train_vq", *options, "--max-steps", "100000", "--max-minutes", "0.02")
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
    call_script("prepare_data", *prepared)
    output = tmp_path / "model"
    options = ["--config", lm_yaml, "--data", tmp_path / "data", "--output", output]
    start_two("train_lm", *options, "--max-steps", "4", "--batch-size", "16")
    assert read_json(output / "run" / "summary.json")["steps"] == 4
    assert len(list((output / "run" / "checkpoint").glob("random_states_*"))) == 2
