"""The reference of settings names every field of every settings dataclass, with help."""

import importlib.util
from dataclasses import fields
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "docs" / "settings_reference.py"
spec = importlib.util.spec_from_file_location("settings_reference", FILE)
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


@pytest.mark.parametrize(("heading", "kind"), [(heading, kind) for heading, _, kind in reference.SECTIONS])
def test_every_setting_has_a_line_of_help(heading, kind):
    lines = reference.help_of(kind)
    assert [field.name for field in fields(kind) if field.name not in lines and field.name != "type"] == []


def test_the_page_has_names_defaults_and_the_commit():
    page = reference.page("abc1234")
    assert "| `quantizer.codebook_size` | `1024` | number of codes, K. |" in page
    assert "| `sequences.code_noise` | `0.5` |" in page
    assert page.count("| `learning_rate` |") == 3  # shared, and two stages with other defaults
    assert page.rstrip().endswith("commit abc1234.*")
