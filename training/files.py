"""JSON files that are either whole or absent, and folders that are not written over."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from vqlm.training.errors import UserError


def write_json(path: Path, value: Any) -> None:
    """Write `value` under a temporary name, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def write_notice(folder: Path, attribution: str | None) -> None:
    """The licence line of the pictures that a model was trained on, as the file NOTICE; nothing without one."""
    if attribution:
        (folder / "NOTICE").write_text(attribution + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Raises UserError for a file that is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {path.parent} the folder that you meant?") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error.msg}, line {error.lineno}); make the folder anew.") from None


def require_same_settings(folder: Path, found: dict, wanted: dict) -> None:
    """Raises UserError naming the first setting in which the run in `folder` differs from what is asked for."""
    for key in {**wanted, **found}:
        if found.get(key) != wanted.get(key):
            raise UserError(
                f"{folder} holds another run: its {key} is {found.get(key)!r}, now {wanted.get(key)!r}; "
                "use the same settings to continue it, or another --output."
            )


def require_empty(folder: Path) -> None:
    """Raises UserError if `folder` holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} already holds files; continue the run in it with --resume, or choose another --output."
        )


def require_match(found_what: str, found: str | None, expected_what: str, expected: str) -> None:
    """Raises UserError naming the two things whose fingerprints disagree."""
    if found != expected:
        raise UserError(
            f"{found_what} {found}, but {expected_what} {expected}; they do not belong together. "
            "Use the parts of one run, or prepare the data anew."
        )


def checksum_of(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
