"""How a run's progress reads, and how often it is said."""

import pytest

from vqlm.training.watching.progress import Progress, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0:00"), (9.4, "0:09"), (59.6, "1:00"), (125.0, "2:05"), (3599.6, "1:00:00"), (3725.0, "1:02:05")],
)
def test_seconds_read_as_a_clock(seconds, text):
    assert format_seconds(seconds) == text


def test_a_log_gets_a_line_now_and_then_and_the_last(capsys):
    progress = Progress("train")
    progress.last_line = float("-inf")
    for share in (0.25, 0.5, 1.0):  # the second comes too soon after the first
        progress.show(share, 125.0, "loss 3")
    progress.close()
    assert capsys.readouterr().err.splitlines() == [
        "[train]  25%  loss 3  2:05 left",
        "[train] 100%  loss 3  2:05 left",
    ]


def test_other_processes_say_nothing(capsys):
    progress = Progress("train", is_shown=False)
    progress.show(1.0, 0.0, "loss 3")
    progress.say("done")
    progress.close()
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")
