"""The small form of `make chaos`: all stages, killed on one and on two processes, end as undisturbed ones."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from vqlm.training.folders.whole_files import checksum_of, write_json

pytestmark = pytest.mark.slow

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


@pytest.fixture
def chaos(monkeypatch):
    monkeypatch.syspath_prepend(str(CHAOS.parent))
    spec = importlib.util.spec_from_file_location("chaos", CHAOS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_killed_stages_end_as_undisturbed_ones():
    # A process of its own: the forks of this one would have its threads' locks.
    words = [sys.executable, CHAOS, "--kills", "8", "--steps", "20"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    verdicts = [line.split(":")[0] for line in lines if line.endswith("all identical")]
    assert verdicts == [f"{stage} on {n}" for n in (1, 2) for stage in ("train-vq", "prepare", "train-lm")]
    assert lines[-1].startswith("8 kills, all continued")


def test_a_difference_ends_it(chaos):
    chaos.require_same({"model.safetensors": "a"}, {"model.safetensors": "a"}, [])
    with pytest.raises(SystemExit, match="model.safetensors: a undisturbed, b killed"):
        chaos.require_same({"model.safetensors": "a"}, {"model.safetensors": "b"}, [])


def test_a_damaged_file_ends_it(chaos, tmp_path):
    checkpoint = tmp_path / "run" / "checkpoint"
    write_json(checkpoint / "state.json", {})
    write_json(checkpoint / "checksums.json", {"state.json": checksum_of(checkpoint / "state.json")})
    (tmp_path / "run" / "summary.json.tmp").write_text("{")  # half a file under a temporary name is no damage
    chaos.require_whole(tmp_path, [])
    (checkpoint / "state.json").write_text("{}  ")
    with pytest.raises(SystemExit, match="state.json has changed"):
        chaos.require_whole(tmp_path, [])
    (tmp_path / "run" / "checkpoint" / "checksums.json").write_text("{")
    with pytest.raises(SystemExit, match="checksums.json is not JSON"):
        chaos.require_whole(tmp_path, [])


def test_a_finished_folder_without_its_weights_ends_it(chaos, tmp_path, tiny_vqvae):
    tiny_vqvae.save_pretrained(tmp_path)
    chaos.require_whole(tmp_path, ["train-vq"])
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(SystemExit, match="is not a whole safetensors file"):
        chaos.require_whole(tmp_path, ["train-vq"])
    (tmp_path / "config.json").unlink()  # which marks it as finished
    chaos.require_whole(tmp_path, ["train-vq"])
