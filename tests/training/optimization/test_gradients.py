"""Several batches make one step, as one larger batch would. In fp16 an overflow lowers the scale and moves nothing."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.utils.data import DataLoader

import vqlm.training.run
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.optimization.gradients import Gradients
from vqlm.training.run import Run

ROWS = torch.tensor([[1.0], [2.0], [4.0], [8.0], [-3.0], [5.0], [7.0], [-1.0]])


@pytest.fixture
def make_run(tmp_path):
    def make(output: str, resume: bool = False, **config) -> Run:
        config = {"mixed_precision": "no", "log_every": 1, "learning_rate": 0.1, "warmup_ratio": 0.0} | config
        return Run(tmp_path / output, "test", TrainingConfig(**config), {}, resume)

    return make


def train(run: Run, weighted: bool = False, stop: int | None = None) -> float:
    """The weight after a training to fit 2 x; with `weighted`, odd rows count twice."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    loader = DataLoader(ROWS, batch_size=run.config.batch_size, generator=torch.Generator())
    model, optimizer, loader = run.prepare(model, torch.optim.SGD(model.parameters()), loader)
    for batch in run.batches(loader):
        error = (model(batch) - 2 * batch).square() / 100
        if weighted:
            counts = torch.where(batch.remainder(2) == 1, 2.0, 1.0)
            run.step((error * counts).sum() / counts.sum(), model, optimizer, weight=counts.sum())
        else:
            run.step(error.mean(), model, optimizer)
        run.log(error=error.mean())
        if run.state.step + 1 == stop and not run.is_accumulating:
            run._stop_signals.received = 15
    run.finish()
    return model.weight.item()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("accumulated", [2, 4])
def test_the_update_is_that_of_the_larger_batch(make_run, weighted, accumulated):
    whole = train(make_run("whole", max_steps=5, batch_size=4), weighted)
    parts = make_run("parts", max_steps=5, batch_size=4 // accumulated, gradient_accumulation_steps=accumulated)
    assert train(parts, weighted) == pytest.approx(whole, abs=1e-6)
    assert parts.state.step == 5  # a step of the budget is one of the optimizer


def test_a_step_may_begin_in_one_epoch_and_end_in_the_next(make_run):
    run = make_run("run", max_steps=3, batch_size=2, gradient_accumulation_steps=3)  # an epoch has 4 batches
    train(run)
    assert (run.state.step, run.state.epoch, run.state.batch) == (3, 2, 1)


def test_resumed_equals_uninterrupted(make_run, tmp_path):
    settings = {"max_steps": 5, "batch_size": 2, "gradient_accumulation_steps": 3}
    whole = train(make_run("whole", **settings))
    with pytest.raises(SystemExit):
        train(make_run("parts", **settings), stop=2)
    assert train(make_run("parts", resume=True, **settings)) == whole
    lines = (tmp_path / "parts" / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_rows_per_second_count_all_batches_of_a_step(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(vqlm.training.run, "time", SimpleNamespace(monotonic=itertools.count().__next__))  # 1 s a look
    run = make_run("run", max_steps=2, batch_size=2, gradient_accumulation_steps=2)
    train(run)
    line = json.loads((tmp_path / "run" / "run" / "log.jsonl").read_text().splitlines()[0])
    assert line["seconds"] >= 1
    assert line["rows_per_second"] * line["seconds"] == pytest.approx(4)


# fp16, whose scaler works on a CPU too


def step_of(gradients: Gradients, model: nn.Module, optimizer, factor: float) -> float:
    gradients.add(model(torch.ones(1, 1)).sum() * factor, None)
    norm = gradients.finish(model, [optimizer], 1e9).item()
    gradients.update_scale()
    optimizer.zero_grad()
    return norm


def test_a_scaled_gradient_comes_back_unscaled():
    model = nn.Linear(1, 1, bias=False)
    gradients = Gradients(1, GradScaler("cpu", init_scale=1024.0))
    assert step_of(gradients, model, torch.optim.SGD(model.parameters()), 3.0) == 3.0


def test_two_optimizers_of_one_model_are_unscaled_once_each():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    nn.init.ones_(model[0].weight)
    nn.init.ones_(model[1].weight)
    gradients = Gradients(1, GradScaler("cpu", init_scale=1024.0))
    gradients.add(model(torch.ones(1, 1)).sum(), None)
    gradients.finish(model, [torch.optim.SGD(part.parameters()) for part in model], 1e9)
    assert [part.weight.grad.item() for part in model] == [1.0, 1.0]


def test_an_overflow_is_skipped_and_lowers_the_scale(make_run, monkeypatch):
    scaler = GradScaler("cpu", init_scale=4.0)
    monkeypatch.setattr(Run, "_new_scaler", lambda run: scaler)
    run = make_run("run", max_steps=3, batch_size=1)
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    loader = DataLoader(torch.ones(1, 1), generator=torch.Generator())
    model, optimizer, loader = run.prepare(model, torch.optim.SGD(model.parameters()), loader)
    taken = [
        run.step(model(batch).sum() * (float("inf") if run.state.step == 1 else 1.0), model, optimizer)
        for batch in run.batches(loader)
    ]
    assert taken == [True, False, True]
    assert run.state.skipped == 1
    assert scaler.get_scale() == 2.0


def test_overflows_end_the_run_only_where_no_lower_scale_is_left(make_run, monkeypatch):
    monkeypatch.setattr(Run, "_new_scaler", lambda run: GradScaler("cpu", init_scale=16.0))
    run = make_run("run", max_steps=50, batch_size=1)
    model = nn.Linear(1, 1, bias=False)
    loader = DataLoader(torch.ones(1, 1), generator=torch.Generator())
    model, optimizer, loader = run.prepare(model, torch.optim.SGD(model.parameters()), loader)
    batches = run.batches(loader)
    with pytest.raises(UserError, match="10 steps in a row"):
        all(run.step(model(batch).sum() * float("nan"), model, optimizer) is False for batch in batches)
    assert run.state.skipped == 14  # 16, 8, 4 and 2 came first
