"""Checks of the name of a collection, before anything heavy is imported."""

import glob
import os

from vqlm.data_prep.settings import BETWEEN_COLLECTIONS, DATA_HELP
from vqlm.training.errors import UserError


def parts_of(data: str) -> list[str]:
    """The collections that `data` names: several if " + " stands between them and the whole is no path."""
    if BETWEEN_COLLECTIONS not in data or os.path.exists(data):
        return [data]
    return [part.strip() for part in data.split(BETWEEN_COLLECTIONS)]


def require_data(data: str) -> None:
    """Raises UserError for a name that is empty, or that is a path which does not exist or cannot be read."""
    for part in parts_of(data):
        _require_part(part)


def _require_part(data: str) -> None:
    if not data.strip():
        raise UserError(f"`data` is empty; it must be {DATA_HELP[:-1]}.")
    if os.path.exists(data):
        if os.access(data, os.R_OK | (os.X_OK if os.path.isdir(data) else 0)):
            return
        raise UserError(f"{data} cannot be read by this user; check who may read it.")
    if glob.has_magic(data) or ":" in data or data == "openmoji":
        return  # patterns, hub names and openmoji are looked for when they are opened
    if os.path.islink(data):
        raise UserError(f"{data} is a link to {os.readlink(data)}, which does not exist.")
    raise UserError(f"there is no folder {data} here; `data` must be {DATA_HELP[:-1]}.")
