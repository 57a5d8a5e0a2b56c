"""Stage one on two processes of one machine, as torchrun starts them."""

import os
import subprocess
import sys
from pathlib import Path

from training.files import read_json
from vq import VQVAE

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_vq.py"
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_two_processes_end_together_by_the_clock(picture_folder, vq_yaml, tmp_path):
    output = tmp_path / "vq"
    done = subprocess.run(
        [sys.executable, *LAUNCH, str(SCRIPT), "--config", str(vq_yaml)]
        + ["--data", str(picture_folder), "--output", str(output), "--max-steps", "100000", "--max-minutes", "0.02"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"ACCELERATE_USE_CPU": "true"},  # as `accelerate launch --cpu` sets it
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = read_json(output / "run" / "summary.json")
    assert 1 < summary["steps"] < 100000
    assert summary["seconds"] >= 0.02 * 60
    assert VQVAE.from_pretrained(output).config.codebook_size == 16
    states = {path.name for path in (output / "run" / "checkpoint").glob("random_states_*")}
    assert len(states) == 2  # one a process
