"""Steps whose gradient is not finite: skipped, counted, and after several in a row the end of the run."""

import json
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.run import Run
from vqlm.training.skipped_steps import MAX_IN_A_ROW
from vqlm.training.stop_signals import Interrupted


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
    bad = set(range(MAX_IN_A_ROW * 2)) - {MAX_IN_A_ROW - 1}
    taken, _ = train(make_run(max_steps=2 * MAX_IN_A_ROW - 1), dict.fromkeys(bad, math.nan))
    assert sum(taken) == 1


def test_the_count_survives_a_checkpoint(make_run):
    train(make_run(max_steps=3), {1: math.nan})
    run = make_run(resume=True, max_steps=4)
    train(run, {3: math.nan})
    assert run.state.skipped == 2


def test_the_rows_of_a_skipped_step_are_named(make_run, tmp_path, capsys):
    """Of all its batches, in the order of an epoch that is shuffled and was continued; which goes on undisturbed."""
    rows = torch.arange(12.0).view(12, 1)
    seen: list[list[int]] = []

    def train_rows(run: Run) -> None:
        model = nn.Linear(1, 1, bias=False)
        loader = DataLoader(rows, batch_size=2, shuffle=True, generator=torch.Generator())
        model, optimizer, loader = run.prepare(model, torch.optim.SGD(model.parameters()), loader)
        for batch in run.batches(loader):
            seen.append([int(value) for value in batch.flatten()])
            factor = math.nan if run.state.step in (2, 4) else 1.0
            run.step(model(batch).mean() * factor, model, optimizer)
        run.finish()

    settings = {"batch_size": 2, "gradient_accumulation_steps": 2}
    with pytest.raises(Interrupted):
        train_rows(make_run(max_steps=6, stop_after=1, **settings))
    train_rows(make_run(resume=True, max_steps=6, **settings))
    log = [json.loads(line) for line in (tmp_path / "output" / "run" / "log.jsonl").read_text().splitlines()]
    named = {line["step"]: line["rows"] for line in log if "rows" in line}
    assert named == {3: seen[4] + seen[5], 5: seen[8] + seen[9]}
    epochs = [sorted(sum(seen[start : start + 6], [])) for start in (0, 6)]
    assert epochs == [list(range(12))] * 2
    said = ", ".join(map(str, named[3]))
    assert f"step 3 is skipped: its gradient is not finite; rows {said}\n" in capsys.readouterr().err


def test_a_further_model_is_counted_apart(make_run):
    run = make_run(max_steps=3)
    model, other = nn.Linear(1, 1), nn.Linear(1, 1)
    loader = DataLoader(torch.ones(1, 1), batch_size=1)
    model, other, loader, *optimizers = run.prepare(
        model, other, loader, *(torch.optim.SGD(each.parameters()) for each in (model, other))
    )
    for batch in run.batches(loader):
        run.step(model(batch).sum(), model, optimizers[0])
        run.step(other(batch).sum() * math.nan, other, optimizers[1], name="discriminator")
    run.finish()
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (summary["skipped_steps"], summary["skipped_steps_discriminator"]) == (0, 3)
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in log if "rows" in line] == ["discriminator"] * 3
    assert log[-1]["skipped_steps_discriminator"] == 3
    assert "skipped_steps" not in log[-1]
