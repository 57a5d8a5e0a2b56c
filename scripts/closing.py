"""How a stage ends: what it reached, and the command that goes on from there."""

import contextlib
import os
import shlex
from collections.abc import Iterator
from contextvars import ContextVar

from vqlm.scripts.commands import command_prefix

# `vqlm train` prints the commands itself.
_has_next = ContextVar("has_next", default=True)


@contextlib.contextmanager
def without_next_command() -> Iterator[None]:
    """Stages inside end without naming the next command."""
    token = _has_next.set(False)
    try:
        yield
    finally:
        _has_next.reset(token)


def say(text: str) -> None:
    """Print a line, once, whatever the number of processes."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def close_stage(reached: str, *next_command: object) -> None:
    """Say what a stage reached and, unless `vqlm train` runs it, the command that comes next."""
    say(reached)
    if next_command and _has_next.get():
        say(f"Next: {shlex.join([*command_prefix(), *map(str, next_command)])}")
