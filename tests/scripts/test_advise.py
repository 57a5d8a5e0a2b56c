"""`vqlm advise`: the table of what was measured, and what a folder is worth."""

from pathlib import Path

import pytest

from vqlm.planning import machine_speed
from vqlm.planning.machine_speed import MachineSpeed
from vqlm.planning.measured import COLUMNS, MEASURED
from vqlm.scripts import advise
from vqlm.training.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "what_to_expect.md"


def test_the_docs_have_the_same_table():
    assert MEASURED
    assert "\n".join(advise.table_lines()) in PAGE.read_text(encoding="utf-8")


def test_without_a_folder_it_prints_what_was_measured(capsys):
    advise.main([])
    shown = capsys.readouterr().out
    assert shown.startswith("| " + COLUMNS[0])
    assert "Stop when the held-out figure no longer falls" in shown


def test_with_a_folder_it_says_what_that_is_worth(picture_folder, monkeypatch, capsys):
    monkeypatch.setattr(machine_speed, "measure_speed", lambda captions: MachineSpeed(vq_step=0.091, lm_step=0.34))
    advise.main([str(picture_folder)])
    shown = capsys.readouterr().out
    assert "22 pictures to train on, 2 held out" in shown
    assert "minutes are the least from which anything is learned" in shown
    assert "are very few: expect the model to draw these again" in shown
    assert f"Train with: vqlm train {picture_folder} --minutes " in shown


def test_a_folder_that_is_not_there():
    with pytest.raises(UserError, match="nowhere"):
        advise.main(["nowhere"])
