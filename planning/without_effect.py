"""Settings that are given after a plan has begun and so have no effect: a line for each, with what to do instead."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vqlm.lm.settings import is_finished
from vqlm.planning.allowance import Settings
from vqlm.planning.plan import Plan
from vqlm.training.folders.same_run import is_same_place

OPTION_OF_STAGE = {"train_vq": "vq", "prepare": "prepare", "train_lm": "lm"}
FOLDER_OF_STAGE = {"train_vq": "image_tokenizer", "prepare": "data", "train_lm": "model"}


def without_effect(
    output: Path, plan: Plan, given: dict[str, Any], earlier: dict[str, Any], stages: dict[str, Settings]
) -> list[str]:
    """One line for each setting that is given now and that a plan that has begun does not have.

    Args:
        output: folder of the request, with all stages.
        plan: as its YAML files stand now.
        given: arguments of `vqlm train` itself that differ from their defaults, by name.
        earlier: the arguments that the plan was made for, by name.
        stages: the given settings by stage, nested as in their YAML.
    """
    lines = [
        f"note: {_option(name)} {_shown(value)} has no effect any more: the plan in {output / 'plan'} was made "
        f"{_made(name, earlier)} and has begun; take another --output."
        for name, value in given.items()
        if value != earlier.get(name) and not is_same_place(value, earlier.get(name))
    ]
    sampling: dict[str, Any] = {}
    for stage, settings in stages.items():
        planned = dict(_leaves(plan.settings.get(stage, {})))
        for name, value in _leaves(settings):
            if name in planned and planned[name] == value:
                continue
            if name.startswith("sampling.") and is_finished(str(output / "model")):
                sampling[name.removeprefix("sampling.")] = value
            else:
                lines.append(_of_stage(output, stage, name, value))
    if sampling:
        lines.append(sampling_line(output / "model", sampling, "lm.sampling."))
    return lines


def sampling_line(model: Path, sampling: dict[str, Any], prefix: str) -> str:
    """Says that these values do not reach the finished `model`, and the command that makes them its defaults.

    `prefix`: of their options.
    """
    words = [word for name, value in sampling.items() for word in (_option(name), str(value))]
    options = ", ".join(f"{_option(prefix + name)} {value}" for name, value in sampling.items())
    verb = "has" if len(sampling) == 1 else "have"
    command = shlex.join(["vqlm", "set-sampling", str(model), *words])
    return f"note: {options} {verb} no effect on a finished model; this changes how it draws: {command}"


def _made(name: str, earlier: dict[str, Any]) -> str:
    return f"without {_option(name)}" if earlier.get(name) is None else f"with {_shown(earlier[name])}"


def _shown(value: Any) -> str:
    """As a person types it: 20 for 20.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _of_stage(output: Path, stage: str, name: str, value: Any) -> str:
    option = _option(f"{OPTION_OF_STAGE[stage]}.{name}")
    path = output / "plan" / f"{stage}.yaml"
    if (output / FOLDER_OF_STAGE[stage]).exists():
        return f"note: {option} {value} has no effect any more: its stage has begun with {path}; take another --output."
    return f"note: {option} {value} has no effect: a begun plan is kept. Its stage has not begun; set it in {path}."


def _leaves(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"model": {"hidden_size": 32}} -> ("model.hidden_size", 32)."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
