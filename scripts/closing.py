"""How a stage ends: what it reached, and the command that goes on from there."""

import contextlib
import os
import shlex
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import fields
from typing import Any

from vqlm.data_prep.settings import CollectionConfig
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


def collection_words(settings: Any) -> list[str]:
    """The options of how a collection is read that are not at their defaults, for the command that reads it next."""
    words = []
    for field in fields(CollectionConfig):
        value, option = getattr(settings, field.name), "--" + field.name.replace("_", "-")
        if value != field.default:
            words += [option] if value is True else [option, str(value)]
    return words


def close_stage(reached: str, *next_command: object) -> None:
    """Say what a stage reached and, unless `vqlm train` runs it, the command that comes next."""
    say(reached)
    if next_command and _has_next.get():
        say(f"Next: {shlex.join([*command_prefix(), *map(str, next_command)])}")
