"""Whether a stage can write to its output folder, looked at before anything is read or made."""

import os
import tempfile
from pathlib import Path

from vqlm.training.errors import UserError
from vqlm.training.folders.folder_lock import LOCK_FILE

# What a run that was killed before its first checkpoint leaves.
BEGINNINGS = {
    LOCK_FILE, "settings.json", "settings.json.tmp", "log.jsonl", "log.jsonl.tmp", "checkpoint.tmp", "samples",
    "trackers",
}  # fmt: skip


def require_empty(folder: Path, can_resume: bool = True, besides: tuple[str, ...] = ()) -> None:
    """Raises UserError if `folder` holds anything, files that are called as one of `besides` left aside.

    can_resume: whether the caller has an argument `resume`.
    """
    if folder.exists() and (not folder.is_dir() or any(path.name not in besides for path in folder.iterdir())):
        advice = "continue the run in it with `resume`, or choose another" if can_resume else "choose another"
        raise UserError(f"{folder} already holds files; {advice} `output`.")


def require_writable(folder: Path, name: str = "output") -> None:
    """Raises UserError if `folder` is a file, lies below one, or cannot be written to; `name` is the argument's.
    Leaves nothing there."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        what = f"a link to {os.readlink(place)}, which does not exist" if place.is_symlink() else "a file"
        raise UserError(f"`{name}` {folder} cannot be a folder: {place} is {what}.")
    try:
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError
        tempfile.TemporaryFile(dir=place).close()  # some file systems, such as /proc, refuse what they seem to allow
    except OSError:
        raise UserError(f"`{name}` {folder} cannot be written: {place} is read-only for this user.") from None


def require_output(folder: Path, resume: bool = False, can_resume: bool = True) -> None:
    """Raises UserError if a stage cannot write to `folder`: see `require_writable`, and without `resume` also
    `require_empty`, unless all it holds is the beginning of a run. The first of several processes looks, before any of
    them writes."""
    if os.environ.get("RANK", "0") != "0":
        return
    require_writable(folder)
    if not (resume or (can_resume and holds_a_beginning(folder))):
        require_empty(folder, can_resume)


def holds_a_beginning(output: Path) -> bool:
    """Whether nothing would be lost by starting a run in `output`: what it holds is of a run without a checkpoint."""
    run = output / "run"
    if not run.is_dir() or {path.name for path in output.iterdir()} != {run.name}:
        return False
    return {path.name for path in run.iterdir()} <= BEGINNINGS
