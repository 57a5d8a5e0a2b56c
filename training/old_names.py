"""Settings that were renamed or added. Old configs, runs and model folders are read under the new names."""

from typing import Any

# Dotted, as an option and a key of run/settings.json name a setting. Old name: new name.
OLD_NAMES = {
    "warmup_share": "warmup_ratio",
    "network.misfit": "network.size_mismatch",
    "directions": "other_tasks",
}

# What a run or a prepared set did that began before these settings existed, where it is not their default.
EARLIER_VALUES = {"text.plain_punctuation": False, "text.drop_article": False}

# Settings of pictures that runs of stage one did not record, and what version 0.1 did: nothing is known of its
# background. Later versions compared both by the fingerprint of the collection.
RECORDED_LATER = {"background": None, "fit": "crop"}

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


def _renamed(settings: dict[str, Any], prefix: str, names: dict[str, str]) -> dict[str, Any]:
    return {
        names.get(f"{prefix}{name}", f"{prefix}{name}").removeprefix(prefix): (
            _renamed(value, f"{prefix}{name}.", names) if isinstance(value, dict) else value
        )
        for name, value in settings.items()
    }
