"""Which stage wrote a folder: recognised by its files, without torch, before anything is loaded from it."""

import json
from pathlib import Path
from typing import Literal

from vqlm.training.errors import UserError

FolderKind = Literal["image tokenizer", "finished model", "prepared set"]

# The file that each of them ends with, the command that writes it, and its folder in the output of `vqlm train`.
SETTINGS_FILE, MANIFEST, CONFIG_FILE = "text_to_image.json", "manifest.json", "config.json"
COMMANDS: dict[FolderKind, str] = {
    "image tokenizer": "vqlm train-vq",
    "finished model": "vqlm train-lm",
    "prepared set": "vqlm prepare",
}
PARTS: dict[FolderKind, str] = {"image tokenizer": "image_tokenizer", "finished model": "model", "prepared set": "data"}
PLAN = "plan/made_for.json"
ARTICLES = {"image tokenizer": "an image tokenizer"}


def require_kind(folder: Path | str, kind: FolderKind) -> None:
    """Raises UserError if `folder` is not of `kind`; the error says what the folder is, and which folder near it was
    probably meant.

    Example:
        >>> import pathlib, tempfile
        >>> from vqlm.training.folders.folder_kinds import require_kind
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> (folder / "text_to_image.json").touch()
        >>> require_kind(folder, "finished model")
        >>> require_kind(folder, "prepared set")
        Traceback (most recent call last):
            ...
        vqlm.training.errors.UserError: ... is a finished model, not a prepared set; `vqlm prepare` writes one.
    """
    if not str(folder).strip():
        raise UserError(f"the name of the folder is empty; name {_a(kind)}, which `{COMMANDS[kind]}` writes.")
    place = Path(folder)
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        raise UserError(f"{folder} {what}; name the folder of {_a(kind)}, which `{COMMANDS[kind]}` writes.")
    if is_kind(place, kind):
        return
    if _is_unfinished(place, kind):
        raise UserError(f"{folder} is not finished; continue it with `{COMMANDS[kind]}` and `resume`.")
    meant = _near(place, kind)
    advice = f"the {kind} is {meant}" if meant is not None else f"`{COMMANDS[kind]}` writes one"
    raise UserError(f"{folder} {_described(place, kind)}; {advice}.")


def refuse_other_kind(folder: Path | str, kind: FolderKind) -> None:
    """Raises UserError as `require_kind` does for a folder that another stage of ours wrote. Anything else passes, such
    as a name on the hub or a language model of text."""
    place = Path(folder)
    if not place.is_dir() or is_kind(place, kind):
        return
    if (place / PLAN).is_file() or any(is_kind(place, other) for other in PARTS):
        require_kind(folder, kind)


def is_kind(folder: Path, kind: FolderKind) -> bool:
    """Whether the folder holds a finished thing of that kind."""
    if kind == "finished model":
        return (folder / SETTINGS_FILE).is_file()
    if kind == "prepared set":
        return (folder / MANIFEST).is_file()
    return _model_type(folder) == "vqvae" and any(folder.glob("model*.safetensors*"))


def _is_unfinished(folder: Path, kind: FolderKind) -> bool:
    """Whether a stage has begun to write that kind here."""
    if kind == "prepared set":
        return (folder / "shards").is_dir() or (folder / "making.json").is_file()
    run = {"image tokenizer": "train_vq", "finished model": "train_lm"}[kind]
    return _of_run(folder) == run


def _of_run(folder: Path) -> str | None:
    """Which training has begun in the folder and has not written a model."""
    settings = _read(folder / "run" / "settings.json")
    if not settings:
        return None
    run = "train_vq" if any(name.startswith("network.") for name in settings) else "train_lm"
    marker = {"train_vq": CONFIG_FILE, "train_lm": SETTINGS_FILE}[run]  # which is saved last
    return None if (folder / marker).exists() else run


def _described(folder: Path, wanted: FolderKind) -> str:
    """What the folder is, and what it is not."""
    for kind in PARTS:
        if is_kind(folder, kind):
            return f"is {_a(kind)}, not {_a(wanted)}"
    if (folder / PLAN).is_file():
        return f"is the output of `vqlm train`, not {_a(wanted)}"
    other = _model_type(folder)
    if other == "vqvae" and wanted == "image tokenizer":
        return "holds no finished image tokenizer: its weights are missing"
    if other is not None and wanted != "finished model":
        return f"is a model of type {other}, not {_a(wanted)}"
    missing = {"image tokenizer": f"{CONFIG_FILE} of type vqvae with its weights", "finished model": SETTINGS_FILE}
    what = wanted if wanted.startswith("finished") else f"finished {wanted}"
    return f"holds no {what}: {missing.get(wanted, MANIFEST)} is missing"


def _near(folder: Path, kind: FolderKind) -> Path | None:
    """A folder of `kind` inside the given one, beside it, or around it."""
    part = PARTS[kind]
    for place in (folder / part, folder.parent / part, folder.parent):
        if place != folder and is_kind(place, kind):
            return place
    return None


def _model_type(folder: Path) -> str | None:
    kind = (_read(folder / CONFIG_FILE) or {}).get("model_type")
    return kind if isinstance(kind, str) else None


def _read(path: Path) -> dict | None:
    """The object in a JSON file; None where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _a(kind: FolderKind) -> str:
    return ARTICLES.get(kind, f"a {kind}")
