"""Settings of the stages that a person gives: dotted names become nested, unknown names and wrong values are refused."""

from dataclasses import fields, is_dataclass
from typing import Any

from vqlm.data_prep.settings import CollectionConfig, SequenceConfig, TextConfig, ViewConfig
from vqlm.lm.settings import LanguageModelConfig, LMTrainingConfig, SamplingConfig
from vqlm.planning.budget import Settings
from vqlm.training.errors import UserError
from vqlm.vq.quantizers.settings import CONFIGS
from vqlm.vq.settings import NetworkConfig, VQTrainingConfig

OPTIONS = {"train_vq": "vq", "prepare": "prepare", "train_lm": "lm"}
TRAIN_VQ = {"network": NetworkConfig, "max_pictures": int}
PREPARE = {"text": TextConfig, "views": ViewConfig, "num_workers": int, "mixed_precision": str}
TRAIN_LM = {"model": LanguageModelConfig, "sequences": SequenceConfig, "sampling": SamplingConfig}


def checked_settings(given: dict[str, Settings]) -> dict[str, Settings]:
    """The settings by stage, nested, without stages that have none. Raises UserError for a name or value that the
    stage would refuse."""
    nested = {stage: _nested(settings) for stage, settings in given.items() if settings}
    for stage, settings in nested.items():
        _check(f"{OPTIONS[stage]}", settings, _known(stage, settings))
    return nested


def _known(stage: str, settings: Settings) -> dict[str, Any]:
    """The settings that a stage's command takes, by name: a dataclass for a group."""
    collection = {setting.name: setting.type for setting in fields(CollectionConfig)}
    if stage == "train_vq":
        chosen = settings.get("quantizer", {}).get("type", "vq")
        if chosen not in CONFIGS:
            raise UserError(f"vq.quantizer.type must be one of {', '.join(CONFIGS)}, found {chosen!r}.")
        return collection | _fields(VQTrainingConfig) | TRAIN_VQ | {"quantizer": CONFIGS[chosen]}
    if stage == "prepare":
        return collection | PREPARE
    return _fields(LMTrainingConfig) | TRAIN_LM


def _fields(kind: type) -> dict[str, Any]:
    return {setting.name: setting.type for setting in fields(kind)}


def _check(name: str, settings: Settings, known: dict[str, Any]) -> None:
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"{name} has no setting {key!r}; it knows {', '.join(known)}.")
        kind = known[key]
        if is_dataclass(kind):
            if not isinstance(value, dict):
                raise UserError(f"{name}.{key} is a group of settings, found {value!r}; give {name}.{key}.NAME.")
            _check(f"{name}.{key}", value, _fields(kind) | ({"type": str} if key == "quantizer" else {}))
    groups = {key: kind for key, kind in known.items() if is_dataclass(kind) and key in settings}
    for key, kind in groups.items():
        try:
            kind(**{part: value for part, value in settings[key].items() if part != "type" or key != "quantizer"})
        except TypeError as error:
            raise UserError(f"{name}.{key}: {error}.") from None


def _nested(settings: Settings) -> Settings:
    """{"text.size": 800} -> {"text": {"size": 800}}."""
    result: Settings = {}
    for name, value in settings.items():
        place, (*parts, last) = result, name.replace("-", "_").split(".")
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return result
