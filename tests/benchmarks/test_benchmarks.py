"""Every benchmark runs in its smallest form: it may not rot. No time is asserted."""

import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vqlm.lm.decoding.packed_weights import require_int8
from vqlm.training.errors import UserError

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_one_another(monkeypatch):
    """Benchmarks import one another by their names, as scripts in one folder do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]


@pytest.fixture
def run_tiny(tmp_path) -> Callable[[str], dict]:
    """run_tiny("drawing"): what the benchmark saves, its tables checked for their shape and for finite numbers."""

    def run(name: str) -> dict:
        importlib.import_module(name).main(["--tiny", "--output", str(tmp_path)])
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert result["name"] == name
        assert result["question"].endswith(".") or "?" in result["question"]
        assert result["tables"]
        for table in result["tables"]:
            assert table["rows"]
            for row in table["rows"]:
                assert len(row) == len(table["columns"])
                assert all(math.isfinite(value) for value in numbers(row)), (table["columns"], row)
        for plot in result["plots"]:
            assert all(len(point) == 4 for points in plot["series"].values() for point in points)
        return result

    return run


def numbers(row: list) -> list[float]:
    """All in a row, those of spreads too."""
    flat = [value for cell in row for value in (cell if isinstance(cell, list) else [cell])]
    return [value for value in flat if isinstance(value, int | float)]


def rows_of(result: dict, table: int = 0) -> list[list]:
    return result["tables"][table]["rows"]


def first_cells(result: dict, column: int = 0, table: int = 0) -> set:
    return {row[column] for row in rows_of(result, table)}


@pytest.mark.parametrize("name", [
    "roofline", "data_loading", "opening", "startup", "busy_machine", "encoding_rate", "encoding_memory",
])  # fmt: skip
def test_it_answers(run_tiny, name):
    run_tiny(name)


def test_the_variants_of_a_step_are_told_apart(run_tiny):
    assert len(first_cells(run_tiny("lm_step"))) == 3


def test_search_agrees_with_its_peer(run_tiny):
    assert all(row[-1] == 0 for row in rows_of(run_tiny("nearest_codes")))


def test_growth_has_a_curve_for_each_axis(run_tiny):
    names = {plot["name"] for plot in run_tiny("growth")["plots"]}
    assert names == {"row-length", "row-memory", "draw-batch", "model-training", "model-drawing"}


def test_drawing_is_compared_with_generate(run_tiny):
    result = run_tiny("drawing")
    engines = {"here", "here, compiled", "generate, bf16", "generate, fp32"}
    try:
        require_int8(torch.device("cpu"))
        engines.add("here, compiled, int8")
    except UserError:
        assert "int8 is left out" in result["remarks"][0]
    assert engines == {name for name in first_cells(result, 1) if not name.startswith("DALLE")}
    assert first_cells(result, 1, table=1) == engines - {"generate, fp32"}


def test_training_is_compared_with_the_trainer(run_tiny):
    result = run_tiny("lm_training")
    assert {"here", "transformers Trainer"} <= first_cells(result, 1)
    sizes = {row[1]: row[2] for row in rows_of(result)}
    assert sizes["here"] == sizes["transformers Trainer"]


def test_stage_one_without_its_peer_says_so(run_tiny, monkeypatch, unchecked_types):
    monkeypatch.setitem(sys.modules, "dalle_pytorch", None)
    monkeypatch.setattr(importlib.import_module("peer_dalle"), "load", lambda: "dalle-pytorch: missing")
    result = run_tiny("vq_training")
    assert first_cells(result) == {"here", "here, AdamW", "here, compiled"}
    assert result["remarks"] == ["DiscreteVAE is left out: dalle-pytorch: missing."]


def test_stage_one_is_compared_with_its_peer(run_tiny, unchecked_types):
    pytest.importorskip("rotary_embedding_torch")
    result = run_tiny("vq_training")
    ours = {"here", "here, AdamW", "here, compiled"}
    assert first_cells(result) == ours | {"DiscreteVAE", "DiscreteVAE, channels-last"}
    assert all(row[2] > 0 for row in rows_of(result, 1))


def test_memory_is_predicted(run_tiny):
    result = run_tiny("plan_memory")
    assert first_cells(result) == {"configs/smoke/train_vq.yaml", "configs/smoke/train_lm.yaml"}
    for _, predicted, libraries, measured, to_it, _ in rows_of(result):
        assert predicted > libraries > 0
        assert to_it == predicted / measured == pytest.approx(1, abs=0.15)


def test_quantizers_are_compared(picture_folder, tmp_path, unchecked_types):
    compare = importlib.import_module("image_tokenizers").main
    options = ["--minutes", "0.0001", "--only", "the default", "--data", str(picture_folder)]
    rows = compare([*options, "--output", str(tmp_path / "tokenizers")])
    assert len(rows) == 3
    assert len({row.count("|") for row in rows}) == 1


def test_turns_go_round_and_leave_the_warm_up_out():
    measure = importlib.import_module("measure")
    order = []
    found = measure.in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b") or 2.5}, 2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert found["b"] == [2.5, 2.5]
    assert len(found["a"]) == 2
    assert measure.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == (2.0, 1.0, 3.0)


def test_cells_have_three_digits():
    text = importlib.import_module("measure").cell_text
    assert [text(cell) for cell in (1234.56, 0.123456, 12345, None, "x")] == ["1,235", "0.123", "12,345", "", "x"]
    assert text([2.0, 1.0, 3.14159]) == "2 (1 to 3.14)"


def test_the_page_holds_every_table_and_plot(tmp_path):
    result = {
        "name": "growth", "question": "How?", "command": "python benchmarks/growth.py", "date": "2025-01-01",
        "is_quick": False, "machine": {"threads": 2}, "remarks": ["A remark."],
        "plots": [{"name": "k", "title": "By K", "x": "K", "y": "s", "series": {"here": [[1, 2.0, 1.0, 3.0]]}}],
        "tables": [{"title": "Steps", "columns": ["by", "s"], "rows": [["here", [2.0, 1.0, 3.0]]]}],
    }  # fmt: skip
    (tmp_path / "results").mkdir()
    for name in ("growth", "roofline"):
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(result | {"name": name, "question": f"{name}?"}))
    page = tmp_path / "docs" / "page.md"
    images = page.parent / "images"
    importlib.import_module("report").main(
        ["--results", str(tmp_path / "results"), "--page", str(page), "--images", str(images)]
    )
    text = page.read_text()
    assert text.index("## roofline?") < text.index("## growth?")
    assert "| here | 2 (1 to 3) |" in text
    assert "![By K](images/bench-k.png)" in text
    assert (images / "bench-k.png").stat().st_size > 1000
