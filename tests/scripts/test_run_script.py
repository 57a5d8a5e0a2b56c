"""How a script ends: an error that is meant for the user in one line, others with their traceback."""

import errno
import warnings
from pathlib import Path

import pytest

from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.watching.progress import Progress


@pytest.fixture(autouse=True)
def _progress_bars_stay_as_they_are(monkeypatch):
    monkeypatch.setattr("vqlm.scripts.run_script._quiet_libraries", lambda: None)


def exit_status(main) -> int:
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    return ended.value.code


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


def test_a_full_disk_names_resume_only_where_it_exists(capsys):
    def main(_):
        script_parser(None).parse_args([])
        raise OSError(errno.ENOSPC, "No space left on device")

    assert exit_status(main) == 2
    assert capsys.readouterr().err.endswith("No space left on device); make room.\n")


def test_a_file_that_cannot_be_opened_is_one_line(capsys):
    def main(_):
        raise PermissionError(errno.EACCES, "Permission denied", "/root/state.json")

    assert exit_status(main) == 2
    assert capsys.readouterr().err == (
        "error: /root/state.json cannot be read or written (Permission denied); check its path and who may use it.\n"
    )


def test_a_warning_for_users_is_one_line(capsys):
    run_script(lambda _: warnings.warn("the prompt is cut", stacklevel=1))
    assert capsys.readouterr().err == "warning: the prompt is cut\n"
    with pytest.warns(FutureWarning, match="use another argument"):
        run_script(lambda _: warnings.warn("use another argument", FutureWarning, stacklevel=1))


def test_errors_of_a_command_inside_name_the_options_of_the_outer_one(capsys):
    def outer(_):
        parser = script_parser(None)
        parser.add_argument("--max_skipped", type=float)
        parser.parse_args([])
        with parser.around("lm."):
            inner = script_parser(None)
            inner.add_class_arguments(TrainingConfig)
            inner.add_argument("--max_skipped", type=float)
            inner.add_argument("--output", type=Path)
            inner.parse_args([])
            raise UserError("lower `batch_size`, raise `max_skipped`, or take another `output`")

    assert exit_status(outer) == 2
    assert capsys.readouterr().err == "error: lower --lm.batch-size, raise --max-skipped, or take another `output`\n"


def test_a_missing_file_is_one_line_where_an_option_names_it(capsys):
    def main(name):
        parser = script_parser(None)
        parser.add_argument("--page", type=Path)
        parser.parse_args(["--page", "nowhere/page.html"])
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)

    assert exit_status(lambda _: main("nowhere/page.html")) == 2
    assert capsys.readouterr().err.startswith("error: nowhere/page.html cannot be read or written (No such file")
    with pytest.raises(FileNotFoundError):
        run_script(lambda _: main("state.json"))


def test_progress_speaks_of_the_options_of_the_command_that_was_started(capsys):
    def outer(_):
        parser = script_parser(None)
        parser.add_argument("--minutes", type=float)
        parser.parse_args([])
        Progress("outer").say("a larger `minutes`")
        with parser.around("lm."):
            inner = script_parser(None)
            inner.add_class_arguments(TrainingConfig)
            inner.parse_args([])
            Progress("train_lm").say("a larger `max_steps` or `minutes`, not `unknown`")

    run_script(outer)
    Progress("library").say("a larger `max_steps`")
    assert capsys.readouterr().err.splitlines() == [
        "[outer] a larger --minutes",
        "[train_lm] a larger --lm.max-steps or --minutes, not `unknown`",
        "[library] a larger `max_steps`",
    ]
