"""--find-batch-size, with an error of memory where the test wants one."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.machine.batch_size import with_fitting_batch
from vqlm.training.run import Run


def train(output: Path, most: int, resume: bool = False, fails_from: int = 0, **config) -> tuple[float, list[int]]:
    """Train a model of one weight, for which batches of more than `most` rows are short of memory from step
    `fails_from` on; its last weight, and the sizes that were tried."""
    tried = []

    def attempt(config: TrainingConfig) -> float:
        tried.append(config.batch_size)
        run = Run(output, "test", config, {"batch_size": config.batch_size}, resume, 8)
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        loader = DataLoader(torch.arange(8.0).view(8, 1), config.batch_size)
        model, optimizer, loader = run.prepare(model, torch.optim.SGD(model.parameters()), loader)
        for batch in run.batches(loader):
            if len(batch) > most and run.state.step >= fails_from:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
            run.step(model(batch).square().mean() / 50, model, optimizer)
        run.finish()
        return model.weight.item()

    settings = {"max_steps": 4, "batch_size": 8, "mixed_precision": "no", "log_every": 1, "find_batch_size": True}
    return with_fitting_batch(TrainingConfig(**settings | config), output, resume, attempt), tried


def test_half_the_batch_and_twice_the_batches_until_it_fits(tmp_path, capsys):
    whole, tried = train(tmp_path / "whole", most=8)
    assert tried == [8]
    parts, tried = train(tmp_path / "parts", most=2)
    assert tried == [8, 4, 2]
    assert parts == pytest.approx(whole, rel=1e-6)
    assert "tries again with batch_size 2 and gradient_accumulation_steps 4\n" in capsys.readouterr().out
    log = [json.loads(line) for line in (tmp_path / "parts" / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3, 4]


def test_a_changed_update_is_said(tmp_path, capsys):
    train(tmp_path / "output", most=3, batch_size=7)
    assert "batch_size 3 and gradient_accumulation_steps 2: 6 rows per step instead of 7" in capsys.readouterr().out


def test_a_continued_run_begins_with_the_batch_that_was_found(tmp_path):
    train(tmp_path / "output", most=2)
    _, tried = train(tmp_path / "output", most=2, resume=True, max_steps=6)
    assert tried == [2]


def test_where_nothing_fits(tmp_path):
    with pytest.raises(UserError, match="Not even one row fits into memory"):
        train(tmp_path / "output", most=0)


def test_memory_that_ends_after_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"after a checkpoint in .*`output` with batch_size 4 and .*_steps 2\."):
        train(tmp_path / "output", most=4, fails_from=3, checkpoint_minutes=0.0)


def test_other_errors_pass():
    def attempt(config: TrainingConfig) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        with_fitting_batch(TrainingConfig(find_batch_size=True), Path("nowhere"), False, attempt)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="`find_batch_size` works in one process"):
        with_fitting_batch(TrainingConfig(), Path("nowhere"), False, lambda config: None)
