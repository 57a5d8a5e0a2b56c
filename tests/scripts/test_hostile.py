"""The small form of benchmarks/hostile.py: no damaged input of any kind ends a run or loses a row without a reason."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hostile.py"


def test_no_escapes(tmp_path):
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--inputs", "140", "--output", str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    kinds = json.loads((tmp_path / "hostile.json").read_text())["kinds"]
    assert len(kinds) == 14
    assert all(kind["inputs"] == 10 for kind in kinds.values())
    assert all(kinds[name]["read"] for name in ("pictures", "svg", "svg-elements", "captions", "tar"))
    assert sum(sum(kind["lost"].values()) for kind in kinds.values()) > 10
