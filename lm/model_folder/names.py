"""What the name of a finished model means: a folder, a model of this checkout, or a repository of the hub."""

import re
from pathlib import Path
from typing import Any

from vqlm.lm.settings import SETTINGS_FILE
from vqlm.training.errors import UserError
from vqlm.training.folders.folder_kinds import require_kind
from vqlm.training.folders.whole_files import read_json_object

REPOSITORY = re.compile(r"\w[\w.-]*/[\w.-]+")
# Finished models that come with a checkout; an installed wheel has no such folder.
CHECKOUT = Path(__file__).resolve().parents[2]
BASE_MODEL = "emoji"


def find_folder(name: Path | str) -> Path | None:
    """The folder `name` on this machine, or that of the checkout's `models`; None for OWNER/NAME of the hub.

    Raises UserError for a name that is neither. Nothing is loaded.
    """
    if not str(name).strip():
        require_kind(name, "finished model")
    place = Path(name)
    if not place.is_dir() and isinstance(name, str):
        if "/" not in name and (CHECKOUT / "models" / name / "config.json").is_file():
            place = CHECKOUT / "models" / name
        elif name == BASE_MODEL and (CHECKOUT / "Makefile").is_file():
            raise UserError(
                f"there is no models/{name} in {CHECKOUT}; `make base` there trains the model of that name in an "
                "evening."
            )
        elif not place.exists() and REPOSITORY.fullmatch(name):
            return None
    if not place.is_dir():
        raise UserError(
            f"{name} is not a folder; name the folder of a finished model, or OWNER/NAME of one on the hub."
        )
    return place


def settings_of(name: Path | str) -> dict[str, Any] | None:
    """What text_to_image.json says of the finished model `name`; None where it is on the hub.

    Raises UserError for a name that is neither, and for a folder that is no finished model. Nothing is loaded.
    """
    if (folder := find_folder(name)) is None:
        return None
    require_kind(folder, "finished model")
    return read_json_object(folder / SETTINGS_FILE)
