"""Whether a run, or a prepared set, may be continued with the settings of today, and whether parts are of one run."""

import json
import os
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from vqlm.training.errors import UserError
from vqlm.training.old_names import EARLIER_VALUES, RECORDED_LATER, with_new_names

# These do not decide the result: a run may continue with other values of them.
BUDGET_SETTINGS = (
    "max_steps",
    "max_minutes",
    "log_every",
    "eval_every",
    "checkpoint_minutes",
    "num_workers",
    "compile",
    "find_batch_size",
    "stop_after",
    "log_with",
    "sample_every",
    "sample_prompts",
)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"width": 3}} -> {"model.width": 3}: names as options have them, values as JSON holds them.

    A value may be a settings dataclass.
    """
    flat = {}
    for key, value in settings.items():
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return json.loads(json.dumps(flat))


def require_same_run(folder: Path, earlier: dict[str, Any], today: dict[str, Any], config: Any = None) -> None:
    """Raises UserError naming the first setting in which the run that began in `folder` differs from `today`.

    A setting that an earlier version did not have is taken to have been at its default, or at its value in
    `EARLIER_VALUES`. The fingerprint of the collection that such a version recorded is not compared: it was made in
    another way.

    Args:
        folder: of the run, for the error.
        earlier: the settings that the run began with, nested or flat, perhaps under old names.
        today: the settings that are given now, nested; defaults are known for parts that are settings dataclasses.
        config: a settings dataclass whose values stand in `today` at the top, not as a part.
    """
    before, now = flatten(with_new_names(earlier)), flatten(today)
    if "data" not in now:  # how the path of the data was typed, which decides nothing
        before.pop("data", None)
    is_of_first_form = "collection_form" in now and "collection_form" not in before
    for name, at_first in RECORDED_LATER.items():
        if name in now and name not in before:
            before[name] = at_first if is_of_first_form and at_first is not None else now[name]
    if "collection_form" not in before:
        before |= {name: now[name] for name in ("collection", "collection_form") if name in now}
    if (
        before.get("loss.adversarial_weight") == now.get("loss.adversarial_weight") == 0
    ):  # then its start decides nothing
        before["loss.adversarial_start"] = now["loss.adversarial_start"]
    defaults = _defaults({} if config is None else {"": config}) | _defaults(today) | EARLIER_VALUES
    require_same_settings(folder, {name: value for name, value in defaults.items() if name in now} | before, now)


def _defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Defaults of all settings dataclasses in `settings`, flat."""
    defaults = {}
    for key, value in settings.items():
        if not is_dataclass(value):
            continue
        for field in fields(value):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if default is not MISSING:
                defaults[f"{key}.{field.name}".removeprefix(".")] = default
    return flatten(defaults)


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
