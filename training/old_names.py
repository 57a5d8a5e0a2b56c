"""Settings that were renamed. Old configs, runs and model folders are read under the new names."""

from typing import Any

# Dotted, as an option and a key of run/settings.json name a setting. Old name: new name.
OLD_NAMES = {
    "warmup_share": "warmup_ratio",
    "network.misfit": "network.size_mismatch",
    "directions": "other_tasks",
}


# How files are recognised. Up to 0.1 it was by their sizes, now it is by their times too.
COLLECTION_FORM = 2

_FIRST_NAMES = {new: old for old, new in OLD_NAMES.items()}


def with_new_names(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`settings` under the names of today.

    Args:
        settings: by name, nested ({"network": {"misfit": ...}}) or dotted ({"network.misfit": ...}).
        prefix: where `settings` stand, such as "network.".
    """
    return _renamed(settings, prefix, OLD_NAMES)


def with_old_names(settings: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `with_new_names`, for fingerprints, which must not change with a name."""
    return _renamed(settings, "", _FIRST_NAMES)


def comparable(earlier: dict[str, Any], today: dict[str, Any]) -> dict[str, Any]:
    """The settings of an earlier run as they are compared with those of today.

    A run of an earlier version recorded another fingerprint of its collection, which cannot be compared, and how the
    path of the data was typed, which decides nothing.
    """
    settings = with_new_names(earlier)
    if "data" not in today:
        settings.pop("data", None)
    if "collection_form" not in settings:
        settings |= {name: today[name] for name in ("collection", "collection_form") if name in today}
    if settings.get("loss.adversarial_weight") == today.get("loss.adversarial_weight") == 0:
        settings["loss.adversarial_start"] = today["loss.adversarial_start"]  # decides nothing; its default has changed
    return settings


def _renamed(settings: dict[str, Any], prefix: str, names: dict[str, str]) -> dict[str, Any]:
    return {
        names.get(f"{prefix}{name}", f"{prefix}{name}").removeprefix(prefix): (
            _renamed(value, f"{prefix}{name}.", names) if isinstance(value, dict) else value
        )
        for name, value in settings.items()
    }
