"""gpu.py in its tiny form on the CPU: each part by itself, a part that fails or hangs, one JSON in the end."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return importlib.import_module("gpu")


def test_all_parts(tmp_path):
    words = [sys.executable, BENCHMARKS / "gpu.py", "--tiny", "--minutes", "20", "--output", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "gpu.json").read_text())
    parts = report["parts"]
    assert [(name, part.get("reason")) for name, part in parts.items() if not part["passed"]] == []
    assert len(parts) == 9
    assert parts["tests"]["tests_skipped"] > 0
    for precision in ("bf16", "fp16"):
        assert parts["training_110M"][precision]["share_of_peak"] > 0
        assert parts[f"stage_two_{precision}"]["steps"] == 4
    plain, sharded = parts["fsdp2"]["plain"], parts["fsdp2"]["sharded"]
    assert sharded["held_out_image_nll"] == pytest.approx(plain["held_out_image_nll"], abs=0.05)
    cases = [value for value in parts["drawing"].values() if isinstance(value, dict)]
    assert len(cases) == 2
    for case in cases:
        assert set(case) == {"here", "generate, dynamic cache", "generate, static cache"}
        assert all(engine["seconds"] > 0 for engine in case.values())


def test_a_part_that_fails_is_told_and_the_next_runs(gpu, tmp_path, monkeypatch):
    program = tmp_path / "parts.py"
    program.write_text(
        "import sys, pathlib, time\n"
        "pathlib.Path(sys.argv[sys.argv.index('--figures') + 1]).write_text('{\"measured\": 1}')\n"
        "if sys.argv[1] == 'prepare': sys.exit('the disk is gone')\n"
        "if sys.argv[1] == 'training_110M': time.sleep(60)\n"
    )
    monkeypatch.setattr(gpu, "PARTS_FILE", program)
    start = time.monotonic()
    parts = ["machine", "training_110M", "prepare", "fsdp2"]
    report = gpu.main(["--minutes", "0.2", "--output", str(tmp_path), "--parts", *parts])
    assert time.monotonic() - start < 0.2 * 60
    outcomes = report["parts"]
    assert not report["all_passed"]
    assert [outcomes[name]["passed"] for name in parts] == [True, False, False, False]
    assert outcomes["training_110M"]["reason"].startswith("took longer than ")
    assert outcomes["training_110M"]["measured"] == 1
    assert outcomes["prepare"]["reason"] == "exit status 1: the disk is gone"
    assert outcomes["fsdp2"] == {"passed": False, "reason": "needs prepare, which failed", "seconds": 0.0}
    assert json.loads((tmp_path / "gpu.json").read_text()) == report


def test_the_whole_ends_within_its_minutes(gpu):
    assert sum(part.share for part in gpu.PARTS.values()) <= 1 - gpu.SPARE + 1e-9
    assert list(gpu.PARTS) == list(importlib.import_module("gpu_parts").PARTS)
