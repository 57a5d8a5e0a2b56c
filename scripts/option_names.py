"""How a setting is written as an option, and which arguments of a parser are booleans."""

import argparse

PLACES = ("model", "data", "output", "config", "plan", "start", "init_from", "image", "mask", "page")  # files, folders


def option_name(name: str) -> str:
    """`max_steps` -> `--max-steps`."""
    return "--" + name.replace("_", "-")


def options_of(action: argparse.Action) -> list[str]:
    """Options as a person types them, --no-... among them for a boolean."""
    strings = [name for name in action.option_strings if name[-1] != "+"]
    names = [name if name == "-h" else option_name(name.removeprefix("--")) for name in strings]
    return [*names, f"--no-{names[0][2:]}"] if is_boolean(action) else names


def is_boolean(action: argparse.Action) -> bool:
    """Whether `--x` and `--no-x` set it."""
    return getattr(action, "_typehint", None) is bool
