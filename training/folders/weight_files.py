"""Checks of the weights in a model's folder before they are loaded: are they whole, all there, and in the folder?

A model's folder may come from anyone. Weights are safetensors, which hold no code; an index may name files of the
folder only; an adapter, which would load another model, is refused.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json, require_no_pointer

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
WEIGHT_FILES = "model*.safetensors*"  # every file of weights that a model may have, and the index
COPY_AGAIN = "copy or download the whole folder again, or train the model again"


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files that hold the weights in `folder`, each of them whole.

    `variant` chooses among several weights of one model, such as "fp16" those in model.fp16.safetensors.

    Raises UserError for a folder without weights, a file that is a Git LFS pointer or is cut, an index that names what
    is not in the folder, or an adapter of another model.
    """
    if (folder / ADAPTER).exists():
        raise UserError(
            f"{folder} holds {ADAPTER}, an adapter of another model, which is not loaded; merge the adapter into that "
            "model and save the whole."
        )
    weights, index = (folder / name for name in _names_of(variant))
    known = ", ".join(path.name for path in sorted(folder.glob(WEIGHT_FILES)))
    if variant is not None and known and not weights.exists() and not index.exists():
        raise UserError(
            f"{folder} holds no weights of the `variant` {variant!r} ({weights.name}), only {known}; name another, or "
            "leave `variant` out."
        )
    paths = [weights] if weights.exists() else _files_of_index(index)
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path} is missing, and {index} names it; {COPY_AGAIN}.")
        require_no_pointer(path)
        with _opened(path):
            pass
    return paths


def _names_of(variant: str | None) -> tuple[str, str]:
    """The names of the file of weights and of the index, as transformers forms them."""
    if variant is None:
        return WEIGHTS, INDEX
    return WEIGHTS.replace(".safetensors", f".{variant}.safetensors"), INDEX.replace(".json", f".{variant}.json")


def _files_of_index(index: Path) -> list[Path]:
    folder = index.parent
    if not index.exists():
        raise UserError(f"{folder} holds no weights ({WEIGHTS}); {COPY_AGAIN}.")
    places = read_json(index)
    names = places.get("weight_map") if isinstance(places, dict) else None
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index} names no files of weights; {COPY_AGAIN}.")
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{index} names {name!r:.80}, which is no safetensors file of the folder; {COPY_AGAIN}.")
    return [folder / name for name in sorted(set(names.values()))]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The tensors in a file, by name. Raises UserError for a file that is not whole."""
    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError, ValueError) as error:
        reason = f"{path.stat().st_size:,} bytes; {' '.join(str(error).split())[:120]}"
        raise UserError(f"{path} is not a whole safetensors file ({reason}); {COPY_AGAIN}.") from None


def weights_fingerprint(folder: Path) -> str:
    """16 hex digits of all weights in `folder`: names, types, shapes and values, however divided into files."""
    digests: dict[str, str] = {}
    for path in weight_files(folder):
        header, start = _header_of(path)
        with path.open("rb") as file:
            for name, described in header.items():
                first, stop = described["data_offsets"]
                file.seek(start + first)
                digest = hashlib.sha256(json.dumps([described["dtype"], described["shape"]]).encode())
                digest.update(file.read(stop - first))
                digests[name] = digest.hexdigest()
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()[:16]


def _header_of(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, which describes its tensors, and the byte at which their values begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length
