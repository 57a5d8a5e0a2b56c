"""Files that are whole or absent, reading JSON, and checks of an output folder before anything is written to it."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vqlm.training.errors import UserError
from vqlm.training.folders.folder_lock import LOCK_FILE

LFS_POINTER = "version https://git-lfs"
# Words by which a RuntimeError of torch is recognised as a failure to write: it raises no OSError.
TORCH_WRITE_ERRORS = ("PytorchStreamWriter", "iostream error", "file write failed", "inline_container.cc")


def write_json(path: Path, value: Any) -> None:
    """Write `value` under a temporary name, then rename: nobody sees half a file, after a power cut either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    flush_to_disk(temporary)
    os.replace(temporary, path)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write(temporary)`, then rename the file to `path`. It does not wait for the disk as `write_json` does: the
    file may be lost in a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    os.replace(temporary, path)


def flush_to_disk(*paths: Path) -> None:
    """Return once the content of files and the names in folders are on the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_failure(error: Exception) -> str:
    """The reason why a file was not written, in one line. Re-raises an error that is no failure to write."""
    if isinstance(error, RuntimeError):
        if not any(words in str(error) for words in TORCH_WRITE_ERRORS):
            raise error
        return "torch could not write a whole file, as on a full disk"
    return getattr(error, "strerror", None) or str(error).strip().splitlines()[0][:200]


def follow_umask(*paths: Path) -> None:
    """Give files the mode that the umask allows; safetensors lets only their owner read them."""
    mask = os.umask(0)
    os.umask(mask)
    for path in paths:
        path.chmod(0o666 & ~mask)


NOTICE_FILE = "NOTICE"


def write_notice(folder: Path, attribution: str | None) -> None:
    """Write the licence lines of the pictures that a model was trained on to the file NOTICE, if there are any."""
    if attribution:
        (folder / NOTICE_FILE).write_text(attribution + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises UserError for a file that is missing, or not JSON in UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing; check that {path.parent} is the right folder.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not JSON (not UTF-8); run the stage that wrote {path.parent} again.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    if text.startswith(LFS_POINTER):
        raise _pointer_error(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not JSON ({error.msg}, line {error.lineno}); run the stage that wrote {path.parent} again."
        ) from None
    except (RecursionError, ValueError):
        raise UserError(f"{path} is not JSON that can be read; run the stage that wrote {path.parent} again.") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """As `read_json`, for a file that must hold an object; raises UserError for another value."""
    if not isinstance(value := read_json(path), dict):
        raise UserError(f"{path} must hold a JSON object, found {type(value).__name__}; it was changed by hand.")
    return value


def require_no_pointer(path: Path) -> None:
    """Raises UserError for a Git LFS pointer, which a repository holds until its large files are fetched."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER.encode():
            raise _pointer_error(path)


def _pointer_error(path: Path) -> UserError:
    return UserError(
        f"{path} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull` in its repository."
    )


def is_same_place(first: Any, second: Any) -> bool:
    """Whether two texts name the same file or folder of this machine: /data/cats/, ../cats, a link to it."""
    texts = isinstance(first, str) and isinstance(second, str)
    return texts and os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)


def require_same_settings(folder: Path, earlier: dict, now: dict) -> None:
    """Raises UserError naming the first setting in which the run in `folder`, with the settings `earlier`, differs."""
    for key in {**now, **earlier}:
        if earlier.get(key) != now.get(key) and not is_same_place(earlier.get(key), now.get(key)):
            raise UserError(
                f"{folder} holds another run: its `{key}` is {earlier.get(key)!r}, now {now.get(key)!r}; "
                "use the same settings to continue it, or another `output`."
            )


def require_empty(folder: Path, can_resume: bool = True, besides: tuple[str, ...] = ()) -> None:
    """Raises UserError if `folder` holds anything, files that are called as one of `besides` left aside.

    can_resume: whether the caller has an argument `resume`.
    """
    if folder.exists() and (not folder.is_dir() or any(path.name not in besides for path in folder.iterdir())):
        advice = "continue the run in it with `resume`, or choose another" if can_resume else "choose another"
        raise UserError(f"{folder} already holds files; {advice} `output`.")


def require_match(what: str, fingerprint: str | None, expected_what: str, expected: str | None) -> None:
    """Raises UserError naming the two things whose fingerprints disagree.

    Args:
        what: the thing that was found, with a verb, such as "the model's vocabulary is".
        fingerprint: of that thing.
        expected_what: the thing that it must equal, with a verb.
        expected: the fingerprint of that thing.
    """
    if fingerprint != expected:
        raise UserError(
            f"{what} {fingerprint}, but {expected_what} {expected}; they do not belong together. "
            "Use the parts of one run, or prepare the data again."
        )


def checksum_of(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


# What a run that was killed before its first checkpoint leaves.
BEGINNINGS = {
    LOCK_FILE, "settings.json", "settings.json.tmp", "log.jsonl", "log.jsonl.tmp", "checkpoint.tmp", "samples",
    "trackers",
}  # fmt: skip


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
