"""Stage one on two processes of one machine, as `accelerate launch` starts them."""

import subprocess
import sys
from pathlib import Path

from training.files import read_json
from vq import VQVAE

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_vq.py"
LAUNCH = [
    "--cpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--num_cpu_threads_per_process",
    "1",
    "--mixed_precision",
    "no",
]


def test_two_processes_end_together_by_the_clock(picture_folder, vq_yaml, tmp_path):
    output = tmp_path / "vq"
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, str(SCRIPT), "--config", str(vq_yaml)]
        + ["--data", str(picture_folder), "--output", str(output), "--max-steps", "100000", "--max-minutes", "0.02"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = read_json(output / "run" / "summary.json")
    assert 1 < summary["steps"] < 100000
    assert summary["seconds"] >= 0.02 * 60
    assert VQVAE.from_pretrained(output).config.codebook_size == 16
    states = {path.name for path in (output / "run" / "checkpoint").glob("random_states_*")}
    assert len(states) == 2  # one a process
