"""The benchmarks that ask a finished model answer. No time is asserted."""

import importlib
from pathlib import Path

import pytest

from lm.evaluation import evaluate_nll
from training.files import read_json


@pytest.fixture
def tables(pipeline, prepared, tmp_path, monkeypatch):
    """tables("speculative", "--rounds", "1"): of the benchmark in its smallest form."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    pipeline.save_pretrained(tmp_path / "model")
    folders = ["--model", str(tmp_path / "model"), "--data", str(prepared.folder), "--output", str(tmp_path)]

    def run(name: str, *options: str) -> list[list[list]]:
        importlib.import_module(name).main([*folders, "--tiny", *options])
        return [table["rows"] for table in read_json(tmp_path / f"{name}.json")["tables"]]

    return run


def test_speculative(tables):
    (rows,) = tables("speculative", "--prompts", "1", "--rounds", "1")
    assert [row[1] for row in rows[:4]] == ["one by one", "4 at a time", "8 at a time", "16 at a time"]
    assert all(1 <= row[2] <= 17 for row in rows)


def test_quantized(tables, pipeline, prepared):
    likelihoods, times = tables("quantized", "--pictures", "2", "--rounds", "1")
    assert [row[0] for row in likelihoods][:2] == [row[0] for row in times][:2] == ["fp32", "bf16"]
    (split,) = prepared.held_out
    rows = prepared.pictured(split, 1000)
    expected = evaluate_nll(
        pipeline.model, pipeline.vocabulary, rows, pipeline.max_caption_tokens, prepared.tokens_per_image
    )
    assert float(likelihoods[0][1].split()[0]) == pytest.approx(expected, abs=1e-3)
