"""The benchmarks that ask a finished model answer. No time is asserted."""

import importlib
from pathlib import Path

import pytest
import torch

from vqlm.lm.decoding.packed_weights import require_int8
from vqlm.lm.evaluate.metrics import evaluate_nll
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json

pytestmark = pytest.mark.slow


@pytest.fixture
def tables(finished, prepared, tmp_path, monkeypatch):
    """tables("speculative", "--rounds", "1"): of the benchmark in its smallest form."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    folders = ["--model", str(tmp_path / "model"), "--data", str(prepared.folder), "--output", str(tmp_path)]

    def run(name: str, *options: str) -> list[list[list]]:
        importlib.import_module(name).main([*folders, "--tiny", *options])
        return [table["rows"] for table in read_json(tmp_path / f"{name}.json")["tables"]]

    return run


def test_speculative(tables):
    rows = tables("speculative", "--prompts", "1", "--rounds", "1")[0]
    assert [row[1] for row in rows[:4]] == ["one by one", "4 at a time", "8 at a time", "16 at a time"]
    assert all(1 <= row[2] <= 17 for row in rows)


def test_startup(tmp_path, finished, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    importlib.import_module("startup").main(["--tiny", "--model", str(tmp_path / "model"), "--output", str(tmp_path)])
    programs = [row[0] for row in read_json(tmp_path / "startup.json")["tables"][0]["rows"]]
    assert programs[-2:] == ["stock: load model and tokenizer", "vqlm generate, one picture"]


def test_quantized(tables, finished, prepared):
    names = ["fp32", "bf16", "int8"]
    try:
        require_int8(torch.device("cpu"))
    except UserError:
        names.remove("int8")
    likelihoods, times = tables("quantized")
    assert [row[0] for row in likelihoods] == [row[0] for row in times] == names
    exact, *rounded = (float(row[1].split()[0]) for row in likelihoods)
    rows = prepared.pictured("held_out", 3)
    longest, codes = finished.max_caption_tokens, prepared.tokens_per_image
    assert exact == pytest.approx(evaluate_nll(finished.model, finished.vocabulary, rows, longest, codes), abs=1e-3)
    assert rounded == pytest.approx([exact] * len(rounded), rel=0.02)


def test_int8_is_asked_of_the_decoder(finished, prepared, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    quantized = importlib.import_module("quantized")
    codes, prompts = prepared.codes_of(prepared.pictured("held_out", 1)), [[finished.vocabulary.bos]]
    with pytest.raises(UserError, match="must be 'int8'"):
        quantized.nll_of(finished.model, finished.vocabulary, prompts, codes, {"quantize": "int3"})


def test_variety(tables, finished):
    (rows,) = tables("variety", "--temperatures", "0", "5")
    greedy, hot = rows
    assert greedy[:5] == [2.0, finished.sampling.min_p, 0.0, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    assert hot[3][0] > 0.0
    assert hot[4][0] < 1.0
    (trained,) = tables("variety", "--temperatures", "0", "--trained")
    assert 0 <= trained[0][5][0] <= trained[0][6][0] <= 1


def test_distances_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    variety = importlib.import_module("variety")
    pictures = torch.tensor([0.0, 1.0, -1.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert variety.distance_of(pictures) == pytest.approx((1 + 1 + 2) / 3)
    assert variety.alike_share(torch.tensor([[1, 2], [1, 2], [2, 1]])) == pytest.approx(1 / 3)
