"""What a killed run, a damaged file, a full disk and a second program leave behind."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import vqlm.training.folders.run_folder
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.folders.checkpoint import find_damage
from vqlm.training.run import Run

HOLD_LOCK = (
    "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); input()"
)


@pytest.fixture
def make_run(tmp_path):
    def make(resume: bool = False, settings: dict | None = None, **config) -> Run:
        config = {"batch_size": 2, "mixed_precision": "no", "log_every": 1, "max_steps": 6} | config
        return Run(tmp_path / "output", "test", TrainingConfig(**config), settings or {}, resume)

    return make


def train(run: Run, checkpoints: tuple[int, ...] = (), fail_at: int | None = None) -> float:
    """The weight after a training with checkpoints after some steps; it fails as a killed one does."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    loader = DataLoader(torch.arange(6.0).view(6, 1), batch_size=2, shuffle=True, generator=torch.Generator())
    model, optimizer, loader = run.prepare(model, torch.optim.Adam(model.parameters()), loader)
    for batch in run.batches(loader):
        if run.state.step in checkpoints:
            run.checkpoint()
        if run.state.step == fail_at:
            raise KeyboardInterrupt
        loss = model(batch + torch.rand(2, 1)).square().mean()
        run.step(loss, model, optimizer)
        run.log(loss=loss)
    run.finish()
    return model.weight.item()


def steps_logged(run: Run) -> list[int]:
    return [json.loads(line)["step"] for line in (run.folder / "log.jsonl").read_text().splitlines()]


def step_in(folder: Path) -> int:
    return json.loads((folder / "state.json").read_text())["step"]


@pytest.fixture
def killed(make_run, tmp_path) -> tuple[Path, float]:
    """The folder of a run that was killed at step 5, with checkpoints of steps 2 and 4, and what it would learn."""
    whole = train(make_run())
    (tmp_path / "output").rename(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(make_run(), checkpoints=(2, 4), fail_at=5)
    return tmp_path / "output" / "run", whole


def test_the_last_two_are_kept(killed):
    folder, _ = killed
    assert step_in(folder / "checkpoint") == 4
    assert step_in(folder / "checkpoint.old") == 2
    assert find_damage(folder / "checkpoint") is find_damage(folder / "checkpoint.old") is None
    assert not (folder / "checkpoint.tmp").exists()


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "no state", "no list"])
def test_a_damaged_one_falls_back_to_the_one_before(killed, make_run, capsys, damage):
    folder, whole = killed
    file = folder / "checkpoint" / "model.safetensors"
    if damage == "changed":
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:40])
    elif damage == "missing":
        file.unlink()
    elif damage == "no state":
        (folder / "checkpoint" / "state.json").unlink()
    else:
        (folder / "checkpoint" / "checksums.json").write_bytes(b"\xff{")
    run = make_run(resume=True)
    said = capsys.readouterr().err
    assert said.count("the last checkpoint is damaged") == 1
    assert train(run) == whole
    assert steps_logged(run) == [1, 2, 3, 4, 5, 6]
    assert (folder / "checkpoint.damaged").exists()


def test_two_damaged_ones_are_refused_and_left(killed, make_run):
    folder, _ = killed
    for name in ("checkpoint", "checkpoint.old"):
        (folder / name / "optimizer.bin").write_bytes(b"")
    message = "is damaged .optimizer.bin has changed., and there is no whole one before it; remove .*run to start"
    with pytest.raises(UserError, match=message):
        make_run(resume=True)
    assert (folder / "checkpoint.old").exists()
    (folder.parent / "config.json").touch()  # of a finished model, which would be in the way
    with pytest.raises(UserError, match="no whole one before it; train again in another `output`"):
        make_run(resume=True)


def test_a_checkpoint_of_an_older_version_is_continued(killed, make_run):
    folder, whole = killed
    (folder / "checkpoint" / "checksums.json").unlink()
    assert train(make_run(resume=True)) == whole


def test_killed_while_writing_half_a_line_of_the_log(killed, make_run):
    folder, whole = killed
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')
    run = make_run(resume=True)
    assert train(run) == whole
    assert steps_logged(run) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_without_a_checkpoint_may_be_started_over(make_run, capsys, resume):
    with pytest.raises(KeyboardInterrupt):
        train(make_run(learning_rate=0.5), fail_at=4)
    run = make_run(resume=resume)  # other settings: nothing was learnt with the old ones
    assert "the run here had no checkpoint yet; starts over" in capsys.readouterr().err
    train(run)
    assert steps_logged(run) == [1, 2, 3, 4, 5, 6]


def test_a_run_with_a_checkpoint_is_not_started_over(killed, make_run):
    with pytest.raises(UserError, match="already holds files"):
        make_run()


def test_a_setting_that_an_older_version_did_not_have_was_at_its_default(killed, make_run):
    folder, whole = killed
    earlier = json.loads((folder / "settings.json").read_text())
    assert earlier.pop("num_processes") == 1
    (folder / "settings.json").write_text(json.dumps(earlier))
    assert train(make_run(resume=True, settings={"gradient_accumulation_steps": 1})) == whole


def test_a_full_disk_is_said_and_the_last_checkpoint_kept(killed, make_run, monkeypatch):
    folder, whole = killed
    run = make_run(resume=True)

    def fill(place):
        Path(place).mkdir()
        (Path(place) / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run.accelerator, "save_state", fill)
        with pytest.raises(UserError, match="of step 5 could not be written to .* .No space left on device.; the last"):
            train(run, checkpoints=(5,))
    assert not (folder / "checkpoint.tmp").exists()
    assert step_in(folder / "checkpoint") == 4
    assert train(make_run(resume=True)) == whole


def test_an_error_that_is_not_of_the_disk_keeps_its_traceback(make_run, monkeypatch):
    run = make_run()

    def fail(_place):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(run.accelerator, "save_state", fail)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        train(run, checkpoints=(1,))


def test_a_second_program_is_kept_out(killed, make_run, monkeypatch):
    folder, whole = killed
    monkeypatch.setattr(vqlm.training.folders.folder_lock, "LOCK_PATIENCE", 0.1)
    command = [sys.executable, "-c", HOLD_LOCK, str(folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        (folder / "lock").write_text("process 17 on laptop")
        with pytest.raises(UserError, match="Another program .process 17 on laptop. writes to .*output; wait"):
            make_run(resume=True)
        other.kill()
    assert train(make_run(resume=True)) == whole


def test_fewer_rows_than_processes_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="0 rows are too few for 1 processes"):
        Run(tmp_path / "output", "test", TrainingConfig(mixed_precision="no"), {}, False, num_rows=0)
    assert not (tmp_path / "output").exists()
