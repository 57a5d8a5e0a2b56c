"""Files that are whole or absent, JSON above all, and what is wrong with a file that cannot be read or written."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vqlm.training.errors import UserError

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


def checksum_of(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
