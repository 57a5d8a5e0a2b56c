"""Steps whose gradient is not finite: skipped, counted, and after several in a row the end of the run."""

import json
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.run import MAX_SKIPPED_IN_A_ROW, Run


@pytest.fixture
def make_run(tmp_path):
    def make(resume: bool = False, **config) -> Run:
        config = {"batch_size": 1, "mixed_precision": "no", "log_every": 1, "learning_rate": 0.1} | config
        return Run(tmp_path / "output", "test", TrainingConfig(**config), {}, resume)

    return make


def train(run: Run, factors: dict[int, float]) -> tuple[list[bool], list[float]]:
    """Steps of a model of one weight, the loss multiplied by `factors` at some; which were taken, and the weights."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    loader = DataLoader(torch.ones(1, 1), batch_size=1, generator=torch.Generator())
    model, optimizer, loader = run.prepare(model, torch.optim.Adam(model.parameters()), loader)
    taken, weights = [], []
    for batch in run.batches(loader):
        taken.append(run.step(model(batch).sum() * factors.get(run.state.step, 1.0), model, optimizer))
        weights.append(model.weight.item())
    run.finish()
    return taken, weights


@pytest.mark.parametrize("max_grad_norm", [1.0, math.inf])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_step_without_a_finite_gradient_is_skipped_and_counted(make_run, tmp_path, factor, max_grad_norm):
    run = make_run(max_steps=5, max_grad_norm=max_grad_norm)
    taken, weights = train(run, {1: factor, 2: factor})
    assert taken == [True, False, False, True, True]
    assert weights[0] == weights[1] == weights[2]
    assert weights[2] > weights[3] > weights[4]
    assert run.state.skipped == 2
    assert json.loads((tmp_path / "output" / "run" / "summary.json").read_text())["skipped_steps"] == 2
    log = [json.loads(line) for line in (tmp_path / "output" / "run" / "log.jsonl").read_text().splitlines()]
    assert [line.get("skipped_steps") for line in log if "rows" not in line] == [None, 1, 2, 2, 2]
    named = [(line["step"], line["skipped"], line["rows"]) for line in log if "rows" in line]
    assert named == [(2, "model", [0]), (3, "model", [0])]


def test_several_in_a_row_end_the_run_with_advice(make_run):
    with pytest.raises(UserError, match="10 steps in a row .* at step 13; .* `learning_rate` .it is 0.1."):
        train(make_run(max_steps=50), dict.fromkeys(range(3, 50), math.nan))


def test_a_good_step_restarts_the_count(make_run):
    bad = set(range(MAX_SKIPPED_IN_A_ROW * 2)) - {MAX_SKIPPED_IN_A_ROW - 1}
    taken, _ = train(make_run(max_steps=2 * MAX_SKIPPED_IN_A_ROW - 1), dict.fromkeys(bad, math.nan))
    assert sum(taken) == 1


def test_the_count_survives_a_checkpoint(make_run):
    train(make_run(max_steps=3), {1: math.nan})
    run = make_run(resume=True, max_steps=4)
    train(run, {3: math.nan})
    assert run.state.skipped == 2
