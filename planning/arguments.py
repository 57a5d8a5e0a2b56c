"""Checks of a request's arguments that need neither torch nor the collection; they run before all else."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vqlm.lm.model_folder.names import find_folder
from vqlm.training.errors import UserError
from vqlm.training.folders.folder_kinds import require_kind

STAGES = ("inspect", "train_vq", "prepare", "train_lm")
NO_START = "none"  # a training that begins with new models
STRIDES = [4, 2]  # (side / 8)^2 codes per picture


def check_minutes(minutes: float) -> None:
    """Raises UserError unless `minutes` is above 0 and finite."""
    if not 0 < minutes < math.inf:
        raise UserError(f"`minutes` must be above 0, found {minutes}.")


def side_of(image_size: int | None, shape: Sequence[int] | None) -> int | None:
    """The side of the pictures that a person set, as `image_size` or as `shape`, the network's `input_shape`; None if
    neither is set. Raises UserError if the two contradict one another."""
    if shape is None:
        return image_size
    if image_size is not None and list(shape) != [image_size, image_size]:
        raise UserError(f"`image_size` {image_size} contradicts network.input_shape {shape}; leave one of them out.")
    return shape[0]


def check_side(side: int) -> None:
    """Raises UserError for a side that is not a multiple of the product of `STRIDES`."""
    factor = math.prod(STRIDES)
    if side < factor or side % factor:
        raise UserError(f"`image_size` must be a multiple of {factor}, such as 64, 96 or 128; found {side}.")


def folder_of_start(name: str) -> Path:
    """The folder of a finished model to start from, by its path or name. Raises UserError if there is none."""
    folder = find_folder(name)
    if folder is None:
        raise UserError(f"`start` {name} is no folder here; download it first, and give its folder.")
    require_kind(folder, "finished model")
    return folder


def read_settings(folder: Path) -> dict[str, dict[str, Any]]:
    """Settings by stage from the YAML files in `folder`; a stage without a file has none.

    Raises UserError if no stage has a file, or one cannot be read.
    """
    settings: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        path = folder / f"{stage}.yaml"
        if not path.exists():
            continue
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}); correct it.") from None
        if not isinstance(content, dict | None):
            raise UserError(f"{path} must hold settings such as `max_steps: 500`, found {content!r:.60}.")
        settings[stage] = content or {}
    if not settings:
        names = ", ".join(f"{stage}.yaml" for stage in STAGES)
        raise UserError(f"{folder} holds none of {names}; `plan` names a folder that holds some of them.")
    return {stage: settings.get(stage, {}) for stage in STAGES}
