"""Ends a program between any two operations on files, as a kill would: nothing catches it, nothing is tidied up."""

import contextlib
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vqlm.training.folders.whole_folder import SAVING

NAMES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
EVENTS = ("open", *NAMES)
_current: list["_Operations"] = []


class Killed(BaseException):
    pass


class _Operations:
    """Counts the operations below `folder` from the first on a folder that is saved, and kills at one of them."""

    def __init__(self, folder: Path, kill_at: int, events: tuple[str, ...]):
        self.folder, self.kill_at, self.events, self.count = str(folder), kill_at, events, 0

    def see(self, event: str, path: Any) -> None:
        if event in self.events and str(path).startswith(self.folder) and (self.count or SAVING in str(path)):
            self.count += 1
            if self.count == self.kill_at:
                raise Killed


def _hook(event: str, arguments: tuple) -> None:
    if _current and event in EVENTS:
        _current[-1].see(event, arguments[0])


sys.addaudithook(_hook)


@contextlib.contextmanager
def killed_at(number: int, folder: Path, events: tuple[str, ...]) -> Iterator[None]:
    """Inside, the operation of that number raises `Killed`."""
    _current.append(_Operations(folder, number, events))
    try:
        yield
    finally:
        _current.pop()


def killed_everywhere(
    folder: Path, save: Callable[[], Any], look: Callable[[], None], events: tuple[str, ...] = EVENTS
) -> int:
    """Kill `save`, which continues what is in `folder`, at every operation of `events`, from the same start each time.
    After each kill call `look`, and `save` again, which must leave what an undisturbed one leaves.

    Returns the number of kills.
    """
    start = folder.with_name("start")
    shutil.copytree(folder, start)
    save()
    expected = content_of(folder)
    for number in itertools.count(1):
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        try:
            with killed_at(number, folder, events):
                save()
        except Killed:
            look()
            save()
            assert content_of(folder) == expected, number
        else:
            return number - 1
    raise AssertionError


def content_of(folder: Path) -> dict[str, Any]:
    """The files that a reader of a finished folder sees, without the times in them."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "run" not in path.parts]
    return {str(path.relative_to(folder)): _without_times(path) for path in files}


def _without_times(path: Path) -> Any:
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    return [
        json.loads(text, object_hook=lambda found: {key: found[key] for key in found if "second" not in key})
        for text in (path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()])
    ]
