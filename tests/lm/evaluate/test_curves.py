"""The picture of a training's log."""

import json

import pytest
from matplotlib.axes import Axes
from PIL import Image

from vqlm.lm.evaluate.curves import save_curves

LINES = [
    {"step": 5, "image_nll": 6.0, "text_nll": 5.0},
    {"step": 10, "compositional_image_nll": 4.0, "novel_image_nll": 5.0},
    {"step": 10, "image_nll": 3.0, "text_nll": 2.0},
]


@pytest.fixture
def model_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path


def test_each_nll_has_its_curve(model_folder, monkeypatch):
    drawn, plot = {}, Axes.plot

    def note(self, x, y, **style):
        drawn[style["label"]] = (x, y)
        return plot(self, x, y, **style)

    monkeypatch.setattr(Axes, "plot", note)
    assert save_curves(model_folder, model_folder / "curves.png")
    assert drawn == {
        "trained on (with dropout and noise)": ((5, 10), (6.0, 3.0)),
        "compositional": ((10,), (4.0,)),
        "novel": ((10,), (5.0,)),
    }
    assert Image.open(model_folder / "curves.png").size == (840, 480)


def test_a_folder_without_a_log_has_no_curves(tmp_path):
    assert not save_curves(tmp_path, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
