"""The benchmark of serving runs in its smallest form: it may not rot. No time is asserted."""

import importlib
import sys
from pathlib import Path

import pytest
from serving import build_pipeline

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    known = set(sys.modules)
    yield importlib.import_module("serve")
    for name in set(sys.modules) - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]


def test_it_answers(benchmark, tmp_path):
    build_pipeline().save_pretrained(tmp_path / "model")
    result = benchmark.main(["--tiny", "--model", str(tmp_path / "model"), "--output", str(tmp_path)])
    throughput, stream, page, soak = (table["rows"] for table in result["tables"])
    assert (len(throughput), len(stream), len(page)) == (2, 1, 2)
    assert soak[0][:5] == [20, 18, 1, 1, 0]  # requests: drawn, left, malformed, wrong
    assert soak[0][5:7] == [18, 0]  # checked by seed, differing
