"""The command line: dashes or underscores, settings from YAML, errors in one line."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from vqlm.training.cli import run_script, script_parser, values_of
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError


@pytest.fixture(autouse=True)
def _progress_bars_stay_as_they_are(monkeypatch):
    monkeypatch.setattr("vqlm.training.cli.transformers.utils.logging.disable_progress_bar", lambda: None)
    monkeypatch.setattr("vqlm.training.cli.datasets.disable_progress_bars", lambda: None)


def parse(*arguments: str) -> TrainingConfig:
    parser = script_parser("A script.")
    parser.add_class_arguments(TrainingConfig)
    return values_of(TrainingConfig, parser.instantiate(parser.parse_args(list(arguments))))


def exit_status(main) -> int:
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    return ended.value.code


@pytest.mark.parametrize(
    "arguments", [["--max-steps", "5"], ["--max_steps", "5"], ["--max-steps=5"], ["--max_steps=5"]], ids=" ".join
)
def test_dashes_equal_underscores(arguments):
    assert parse(*arguments) == TrainingConfig(max_steps=5)


def test_dashes_in_values_stay():
    parser = script_parser(None)
    parser.add_argument("--the_folder", type=Path)
    for arguments in (["--the-folder", "my-run"], ["--the-folder=my-run"]):
        assert parser.parse_args(arguments).the_folder == Path("my-run")


def test_later_options_override_the_file(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("max_steps: 5\nlearning_rate: 3.0e-4\n")
    assert parse("--config", str(file)) == TrainingConfig(max_steps=5, learning_rate=3e-4)
    assert parse("--config", str(file), "--max-steps", "6") == TrainingConfig(max_steps=6, learning_rate=3e-4)


def test_help_holds_the_line_of_a_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "optimizer steps to train for" in printed
    assert "rows a step and process" in printed


@pytest.mark.parametrize(
    ("text", "named"),
    [("max_stepps: 5\n", "max_stepps"), ("max_steps: many\n", "max_steps"), ("model:\n  width: 3\n", "model")],
)
def test_a_wrong_file_of_settings_fails_and_says_where(tmp_path, capsys, text, named):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    assert exit_status(lambda _: parse("--config", str(file))) != 0
    assert named in capsys.readouterr().err


def test_an_unknown_option_fails_and_is_named(capsys):
    assert exit_status(lambda _: parse("--max-stepps", "5")) != 0
    assert "max_stepps" in capsys.readouterr().err


def test_values_of_takes_only_its_own_fields():
    @dataclass
    class Size:
        width: int
        height: int = 2

    class Settings:
        width, height, depth = 3, 4, 5

    assert values_of(Size, Settings) == Size(3, 4)


def test_a_user_error_is_one_line_and_status_2(capsys):
    def main(_):
        raise UserError("the folder is full; choose another")

    assert exit_status(main) == 2
    printed = capsys.readouterr()
    assert printed.err == "error: the folder is full; choose another\n"
    assert printed.out == ""


def test_any_other_error_keeps_its_traceback():
    def main(_):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run_script(main)
