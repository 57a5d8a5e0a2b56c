"""Trackers of accelerate: refused in one sentence where they are not installed, else told what the log is told."""

import importlib.util

import accelerate.tracking
import pytest
import torch
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

import vqlm.training.watching.samples as samples_module
from vqlm.training.config import TRACKER_PACKAGES, TrainingConfig, tracker_names
from vqlm.training.errors import UserError
from vqlm.training.run import Run
from vqlm.training.watching.samples import SampleSource


class Notebook(GeneralTracker):
    """Keeps all that it is told."""

    name, requires_logging_directory, last = "trackio", True, None

    def __init__(self, run_name: str, logging_dir: str, **_):
        super().__init__()
        self.run_name, self.folder, self.lines, self.pictures, self.is_finished = run_name, logging_dir, [], [], False
        Notebook.last = self

    def start(self):
        pass

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values: dict):
        self.settings = values

    def log(self, values: dict, step: int | None = None, **_):
        self.lines.append((step, values))

    def log_images(self, values: dict, step: int | None = None, **_):
        self.pictures.append((step, values["samples"].shape))

    def finish(self):
        self.is_finished = True


@pytest.fixture
def notebook(monkeypatch):
    """accelerate takes a `Notebook` for trackio."""
    monkeypatch.setitem(TRACKER_PACKAGES, "trackio", "json")  # a package that is there
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: [LoggerType.TRACKIO])
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "trackio", Notebook)


def test_a_tracker_is_told_settings_figures_and_samples(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(samples_module, "SECONDS_BEFORE_FIRST", 0.0)
    config = TrainingConfig(max_steps=4, log_every=2, batch_size=1, mixed_precision="no", log_with="trackio")
    run = Run(tmp_path / "output", "test", config, {"model": {"width": 3, "kind": None}}, resume=False)
    model = nn.Linear(1, 1)
    model, optimizer, loader = run.prepare(
        model, torch.optim.SGD(model.parameters()), DataLoader(torch.ones(4, 1), batch_size=1)
    )
    run.show_samples(SampleSource(lambda start, stop: [Image.new("RGB", (4, 6))] * (stop - start), ["one"]))
    for batch in run.batches(loader):
        run.step(model(batch).sum(), model, optimizer)
        run.log(loss=2.0)
        if run.is_next_due(4):
            run.report(held_out=0.5)
    run.finish()
    told = Notebook.last
    assert told is not None
    assert (told.run_name, told.folder) == ("test", str(tmp_path / "output" / "run" / "trackers"))
    assert (told.settings["model.width"], told.settings["model.kind"]) == (3, "None")
    assert [(step, values.get("loss"), values.get("held_out")) for step, values in told.lines] == [
        (2, 2.0, None), (4, None, 0.5), (4, 2.0, None),
    ]  # fmt: skip
    assert {shape for _, shape in told.pictures} == {(1, 8, 6, 3)}
    assert told.is_finished


def test_a_tracker_that_is_not_installed_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"`log_with` wandb needs the package wandb; install it: pip install wandb\.$"):
        TrainingConfig(log_with="wandb")


def test_an_unknown_tracker_is_refused_by_those_that_there_are():
    with pytest.raises(UserError, match="`log_with` must name tensorboard, wandb, .*; found 'tensorbord'"):
        TrainingConfig(log_with="tensorbord")


def test_names_are_separated_by_commas():
    assert tracker_names(None) == []
    assert tracker_names("tensorboard, wandb") == ["tensorboard", "wandb"]
