"""A run: its schedule, its budget, one step, its log, its checkpoints, and whose folder it is."""

import itertools
import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import vqlm.training.machine.device
import vqlm.training.run
from vqlm.training.budget import schedule
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.run import Run
from vqlm.training.stop_signals import Interrupted

ROWS = 6


@pytest.fixture
def make_run(tmp_path):
    """A run in `tmp_path / "run-of-a-test"`; further arguments are training settings."""

    def make(settings: dict | None = None, resume: bool = False, **config) -> Run:
        config = {"batch_size": 2, "mixed_precision": "no", "log_every": 2} | config
        return Run(tmp_path / "output", "test", TrainingConfig(**config), settings or {}, resume)

    return make


def make_parts(weight: float = 1.0) -> tuple:
    """A model of one weight, plain gradient descent, and the rows 0 to 5 in batches of 2."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    rows = torch.arange(float(ROWS)).view(ROWS, 1)
    loader = DataLoader(rows, batch_size=2, shuffle=True, generator=torch.Generator())
    return model, torch.optim.SGD(model.parameters(), lr=123.0), loader


def train(run: Run) -> float:
    """Trains to the end of the budget; the weight that comes of it."""
    model, optimizer, loader = run.prepare(*make_parts())
    for batch in run.batches(loader):
        loss = model(batch + torch.rand(2, 1)).square().mean()
        run.step(loss, model, optimizer)
        run.log(loss=loss)
    run.finish()
    return model.weight.item()


def log_of(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


def test_no_process_leaves_before_the_folder_is_finished(make_run, monkeypatch):
    run, seen = make_run(max_steps=1), []

    def wait_for_everyone():
        seen.append((run.folder / "summary.json").exists())

    monkeypatch.setattr(run.accelerator, "wait_for_everyone", wait_for_everyone)
    train(run)
    assert seen[-1]


# Schedule


@pytest.mark.parametrize(
    ("share", "warmup_ratio", "factor"),
    [
        (0.0, 0.2, 0.01),
        (0.002, 0.2, 0.01),
        (0.003, 0.2, 0.015),
        (0.1, 0.2, 0.5),
        (0.2, 0.2, 1),
        (0.6, 0.2, 0.5),
        (1.0, 0.2, 0),
        (0.0, 0.0, 1),
        (0.25, 0.0, 0.75),
        (1.0, 0.0, 0),
    ],
)
def test_schedule_rises_and_falls_linearly(share, warmup_ratio, factor):
    assert schedule(share, TrainingConfig(warmup_ratio=warmup_ratio)) == pytest.approx(factor)


@pytest.mark.parametrize(("share", "factor"), [(0.1, 0.5), (0.2, 1), (0.4, 0.8536), (0.6, 0.5), (1.0, 0)])
def test_a_cosine_falls_slowly_at_both_ends(share, factor):
    config = TrainingConfig(warmup_ratio=0.2, schedule="cosine")
    assert schedule(share, config) == pytest.approx(factor, abs=1e-4)


@pytest.mark.parametrize(("share", "factor"), [(0.1, 0.5), (0.2, 1), (0.6, 0.55), (1.0, 0.1)])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_floor_is_where_the_fall_ends(share, factor, kind):
    config = TrainingConfig(warmup_ratio=0.2, schedule=kind, min_learning_rate_ratio=0.1)
    assert schedule(share, config) == pytest.approx(factor)


@pytest.mark.parametrize(("share", "factor"), [(0.1, 0.5), (0.2, 1), (0.6, 1), (1.0, 1)])
def test_a_constant_schedule_stays_after_the_warm_up(share, factor):
    assert schedule(share, TrainingConfig(warmup_ratio=0.2, schedule="constant")) == pytest.approx(factor)


# Budget


@pytest.mark.parametrize(
    ("budget", "steps", "seconds", "share"),
    [
        ({"max_steps": 8}, 2, 1e6, 0.25),
        ({"max_minutes": 2.0}, 1000, 30, 0.25),
        ({"max_steps": 8, "max_minutes": 2.0}, 4, 30, 0.5),
        ({"max_steps": 8, "max_minutes": 2.0}, 2, 90, 0.75),
        ({"max_steps": 8, "max_minutes": 2.0}, 9, 0, 1),
        ({"max_minutes": 2.0}, 0, 1000, 1),
    ],
)
def test_share_is_that_of_whichever_budget_ends_first(make_run, budget, steps, seconds, share):
    run = make_run(**budget)
    run.state.step, run.state.seconds = steps, float(seconds)
    assert run.share == share


def test_steps_end_the_batches(make_run):
    run = make_run(max_steps=4)
    loader = run.prepare(make_parts()[2])
    assert len(list(run.batches(loader))) == 4
    assert (run.state.step, run.state.epoch, run.state.batch) == (4, 1, 1)


def test_minutes_end_the_batches(make_run, monkeypatch):
    monkeypatch.setattr(vqlm.training.run, "time", SimpleNamespace(monotonic=itertools.count().__next__))  # 1 s a look
    run = make_run(max_minutes=0.1)
    loader = run.prepare(make_parts()[2])
    assert len(list(run.batches(loader))) == 6
    assert run.state.seconds == 6


def test_every_epoch_brings_every_row_in_another_order(make_run):
    run = make_run(max_steps=9)
    loader = run.prepare(make_parts()[2])
    seen = torch.cat(list(run.batches(loader))).view(3, ROWS)
    assert [sorted(epoch) for epoch in seen.tolist()] == [list(range(ROWS))] * 3
    assert len({tuple(epoch) for epoch in seen.tolist()}) > 1


@pytest.mark.parametrize(
    ("budget", "every", "due"),
    [
        ({"max_steps": 7}, 3, [3, 6, 7]),
        ({"max_steps": 7}, 0.5, [4, 7]),
        ({"max_steps": 10}, 0.1, list(range(1, 11))),
        ({"max_steps": 10}, 0.25, [3, 5, 8, 10]),
        ({"max_steps": 4}, 0.1, [1, 2, 3, 4]),
        ({"max_minutes": 0.2}, 0.25, [4, 7, 10]),  # of 12 seconds, a second a step, and noticed one step later
        ({"max_minutes": 0.2}, 5, [5, 10]),
        ({"max_steps": 100, "max_minutes": 0.2}, 0.25, [4, 7, 10]),
    ],
)
def test_when_an_interval_ends(make_run, monkeypatch, budget, every, due):
    monkeypatch.setattr(vqlm.training.run, "time", SimpleNamespace(monotonic=itertools.count().__next__))  # 1 s a look
    run = make_run(**budget)
    assert [run.state.step + 1 for _ in run.batches(run.prepare(make_parts()[2])) if run.is_next_due(every)] == due


@pytest.mark.parametrize(
    ("budget", "log_interval", "eval_interval"),
    [
        ({}, 50, 500),
        ({"max_minutes": 2.0}, 0.02, 0.25),
        ({"max_minutes": 2.0, "max_steps": 9}, 50, 500),
        ({"max_minutes": 2.0, "log_every": 7, "eval_every": 0.5}, 7, 0.5),
    ],
)
def test_intervals_are_shares_of_minutes(budget, log_interval, eval_interval):
    config = TrainingConfig(**budget)
    assert (config.log_interval, config.eval_interval) == (log_interval, eval_interval)


def test_a_budget_of_minutes_is_logged_by_its_shares(make_run, monkeypatch):
    monkeypatch.setattr(vqlm.training.run, "time", SimpleNamespace(monotonic=itertools.count().__next__))  # 1 s a look
    run = make_run(max_minutes=0.2, log_every=0.5)
    list(run.batches(run.prepare(make_parts()[2])))
    assert [line["step"] for line in log_of(run)] == [7, 12]


def test_a_report_at_the_last_step_is_the_final_one(make_run):
    run = make_run(max_steps=3)
    for _ in run.batches(run.prepare(make_parts()[2])):
        assert run.final_report is None or run.state.step == 2
        if run.is_next_due(2):
            run.report(held_out=float(run.state.step))
    assert run.final_report == {"held_out": 2}


# One step


@pytest.mark.parametrize(
    ("steps_done", "max_grad_norm", "weight"),
    [
        (0, 1e9, 1 - 0.1 * 0.01 * 6),  # the schedule starts at a hundredth
        (5, 1e9, 1 - 0.1 * 0.5 * 6),  # half the warm-up: half the rate; the gradient of (3 w)^2 / 3 is 6 w
        (10, 1e9, 1 - 0.1 * 6),
        (10, 2.0, 1 - 0.1 * 2),  # scaled down to 2
    ],
)
def test_a_step_by_hand(make_run, steps_done, max_grad_norm, weight):
    run = make_run(max_steps=100, warmup_ratio=0.1, learning_rate=0.1, max_grad_norm=max_grad_norm)
    model, optimizer, _ = run.prepare(*make_parts())
    run.state.step = steps_done
    run.step(model(torch.tensor([[3.0]])).square().sum() / 3, model, optimizer)
    assert model.weight.item() == pytest.approx(weight, abs=1e-5)
    assert model.weight.grad is None


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16"), (False, "no")])
def test_automatic_precision_is_bf16_where_it_is_fast(make_run, monkeypatch, fast, precision):
    monkeypatch.setattr(vqlm.training.machine.device, "is_bf16_fast", lambda device: fast)
    assert make_run(mixed_precision="auto").accelerator.mixed_precision == precision


# Log


def test_log_lines_hold_step_seconds_and_the_means_since_the_last(make_run):
    run = make_run(max_steps=5, log_every=2)
    loader = run.prepare(make_parts()[2])
    for number, _ in enumerate(run.batches(loader), start=1):
        run.log(loss=torch.tensor(float(number)), constant=7.0)
    lines = log_of(run)
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert [line["loss"] for line in lines] == [1.5, 3.5, 5.0]
    assert [line["constant"] for line in lines] == [7.0, 7.0, 7.0]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    assert all(line["rows_per_second"] > 0 for line in lines)


def test_a_report_is_logged_at_once_under_the_step_at_hand(make_run):
    run = make_run(max_steps=3, log_every=100)
    loader = run.prepare(make_parts()[2])
    for _ in run.batches(loader):
        if run.is_next_due(2):
            run.report(held_out=0.5)
    assert [line["step"] for line in log_of(run) if line.get("held_out") == 0.5] == [2, 3]


def test_progress_shows_the_loss_the_rate_and_the_last_held_out_figure(make_run, capsys):
    run = make_run(max_steps=4, log_every=2)
    loader = run.prepare(make_parts()[2])
    for _ in run.batches(loader):
        run.log(loss=2.0)
        if run.is_next_due(4):
            run.report(held_out=0.5, other=1.0)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"\[test\] 100%  step 4  loss 2  rows_per_second \d+(\.\d+)?  held_out 0.5  0:00 left", last)


def test_the_log_has_the_share_of_the_budget(make_run):
    run = make_run(max_steps=3, log_every=1)
    loader = run.prepare(make_parts()[2])
    for _ in run.batches(loader):
        pass
    assert [line["share"] for line in log_of(run)] == [0.3333, 0.6667, 1.0]


# Checkpoints


def interrupt(run: Run, step: int, times: int = 1) -> None:
    """Trains until `step`, then sends this process SIGTERM."""
    model, optimizer, loader = run.prepare(*make_parts())
    for batch in run.batches(loader):
        loss = model(batch + torch.rand(2, 1)).square().mean()
        run.step(loss, model, optimizer)
        if run.state.step + 1 == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_resumed_equals_uninterrupted(make_run, tmp_path, step):
    whole = train(make_run(max_steps=7))
    (tmp_path / "output").rename(tmp_path / "whole")
    with pytest.raises(Interrupted) as stopped:
        interrupt(make_run(max_steps=7), step)
    assert stopped.value.code == 128 + signal.SIGTERM
    run = make_run(max_steps=7, resume=True)
    assert run.is_resumed
    assert train(run) == whole
    assert run.state.step == 7


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_run_stops_after_so_many_steps_of_each_start(make_run, tmp_path, stop_after):
    whole = train(make_run(max_steps=7))
    (tmp_path / "output").rename(tmp_path / "whole")
    for start in range(7):
        run = make_run(max_steps=7, resume=True, stop_after=stop_after)
        if stop_after * (start + 1) >= 7:
            break
        with pytest.raises(Interrupted) as stopped:
            train(run)
        assert (stopped.value.code, stopped.value.message) == (0, f"test stopped at step {stop_after * (start + 1)}")
    assert train(run) == whole


def test_a_signal_that_a_launcher_passes_on_is_the_same_one(make_run):
    """Slurm tells every process, and torchrun tells its own again."""
    run = make_run(max_steps=7)
    with pytest.raises(Interrupted):
        interrupt(run, step=3, times=2)
    assert (run.folder / "checkpoint").exists()


def test_a_second_signal_ends_the_run_at_once(make_run, monkeypatch):
    monkeypatch.setattr("vqlm.training.stop_signals.REPEAT_SECONDS", -1.0)
    run, before = make_run(max_steps=7), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        interrupt(run, step=3, times=2)
    assert not (run.folder / "checkpoint").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_crash_between_two_checkpoints_leaves_one_to_continue(make_run, monkeypatch):
    run = make_run(max_steps=7)
    run.prepare(*make_parts())
    run.state.step = 2
    run.checkpoint()
    replace = os.replace

    def crash(source, target):
        if Path(target).name == "checkpoint":
            raise KeyboardInterrupt
        replace(source, target)

    run.state.step = 4
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        run.checkpoint()
    monkeypatch.undo()
    continued = make_run(max_steps=7, resume=True)
    continued.prepare(*make_parts())
    assert continued.state.step in (2, 4)


def test_checkpoints_are_made_as_time_passes(make_run, monkeypatch):
    monkeypatch.setattr(vqlm.training.run, "time", SimpleNamespace(monotonic=itertools.count().__next__))  # 1 s a look
    run = make_run(max_steps=7, checkpoint_minutes=0.05)
    steps = []
    monkeypatch.setattr(
        run.accelerator, "save_state", lambda folder: (Path(folder).mkdir(), steps.append(run.state.step))
    )
    list(run.batches(run.prepare(make_parts()[2])))
    assert steps == [4]  # the first step after 3 seconds; the next would come after step 8
    assert json.loads((run.folder / "checkpoint" / "state.json").read_text())["step"] == 4


# Whose folder it is


def test_a_run_is_finished_once_its_budget_is_spent(make_run):
    run = make_run(max_steps=4)
    assert not run.is_finished
    train(run)
    assert make_run(max_steps=4, resume=True).is_finished
    longer = make_run(max_steps=6, resume=True)
    assert not longer.is_finished
    assert longer.is_resumed


def test_the_same_settings_are_recognised_in_any_form(make_run):
    run = make_run({"model": {"shape": (2, 3)}, "log_every": 5})
    run.prepare(*make_parts())
    run.checkpoint()
    make_run({"model": {"shape": [2, 3]}, "log_every": 9}, resume=True)  # neither a tuple nor the log matters
    with pytest.raises(UserError, match=r"model.shape` is \[2, 3\], now \[2, 4\]"):
        make_run({"model": {"shape": [2, 4]}}, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_other_files_is_refused(make_run, tmp_path, resume):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "thesis.txt").write_text("all my work")
    with pytest.raises(UserError, match="already holds files"):
        make_run(resume=resume)
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["thesis.txt"]


def test_resume_in_an_empty_folder_starts(make_run):
    run = make_run(resume=True)
    assert not run.is_resumed
    assert (run.folder / "settings.json").exists()
