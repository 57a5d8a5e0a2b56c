"""The progress of any long task: a bar in a terminal, a line every ten seconds in a file."""

import sys
import time
from collections.abc import Callable
from typing import ClassVar

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows the share done, the time left and a few figures. Silent unless `is_shown`."""

    # How a line is told: a script writes --max-steps for `max_steps`.
    told: ClassVar[Callable[[str], str]] = str

    def __init__(self, name: str, is_shown: bool = True):
        self.name, self.is_shown = name, is_shown
        self.is_terminal = sys.stderr.isatty()
        self.bar = None
        self.last_line = time.monotonic()

    def show(self, share: float, seconds_left: float, text: str) -> None:
        """`share` in [0, 1]; `text` holds the figures."""
        if not self.is_shown:
            return
        if self.is_terminal:
            if self.bar is None:
                self.bar = tqdm(total=100, desc=self.name, bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix}")
            self.last_line = time.monotonic()
            self.bar.n = round(100 * share)
            self.bar.set_postfix_str(f"{text}, {format_seconds(seconds_left)} left")
        elif self.is_due or share >= 1:
            self.last_line = time.monotonic()
            self.say(f"{100 * share:3.0f}%  {text}  {format_seconds(seconds_left)} left")

    @property
    def is_due(self) -> bool:
        """Whether the last line is so old that another one is welcome."""
        return self.is_shown and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES

    def tick(self, text: str) -> None:
        """A line that stays, unless the last one is recent: for work whose end is not known."""
        if self.is_due:
            self.last_line = time.monotonic()
            self.say(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.is_shown:
            tqdm.write(f"[{self.name}] {Progress.told(text)}", file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def format_seconds(seconds: float) -> str:
    """125 -> "2:05"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
