"""Options of the fields of settings dataclasses, and the dataclasses from what was parsed."""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring

from vqlm.scripts.option_names import option_name
from vqlm.scripts.options import ScriptParser
from vqlm.training.errors import UserError

Config = TypeVar("Config")


def add_typed_settings(
    parser: ScriptParser, name: str, kinds: Mapping[str, type], default: str, arguments: list[str] | None
) -> None:
    """Settings of which those that exist depend on `NAME.type`, which is looked for in `arguments` first.

    It may stand in `--NAME.type TYPE`, in `--NAME '{"type": ...}'`, in `--NAME FILE.yaml`, or in a --config file. The
    last one counts.
    """
    search = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    search.add_argument("--config", dest="found", action="append", nargs="?", type=lambda text: _type_in(text, name))
    search.add_argument(f"--{name}", dest="found", action="append", nargs="?", type=lambda text: _type_in(text))
    search.add_argument(f"--{name}.type", dest="found", action="append", nargs="?")
    known, _ = search.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    chosen = next((kind for kind in reversed(known.found or []) if kind is not None), default)
    if chosen not in kinds:
        raise UserError(f"{option_name(name)}.type must be one of {', '.join(kinds)}, found {chosen!r}.")
    others = ", ".join(kind for kind in kinds if kind != chosen)
    parser.add_argument(
        f"--{name}.type",
        type=Literal[tuple(kinds)],
        default=chosen,
        help=f"The settings of {chosen} are below; `{option_name(name)}.type TYPE --help` shows those of {others}.",
    )
    parser.add_class_arguments(kinds[chosen], name, skip={"type"})


def _type_in(text: str, name: str | None = None) -> str | None:
    """The type in settings that are a file or stand in `text`; in the part `name` of them, where that is given."""
    path = Path(text)
    is_file = os.path.isfile(text)  # unlike Path.is_file, it takes text of any length
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8") if is_file else text)
    except (yaml.YAMLError, ValueError, RecursionError, OSError):  # ValueError: not UTF-8, or a date that is none
        return None  # which the parser reports
    if name is not None:
        settings = settings.get(name) if isinstance(settings, dict) else None
        if isinstance(settings, str) and is_file:
            return _type_in(str(path.parent / settings))
    return settings.get("type") if isinstance(settings, dict) else None


def add_overrides(parser: ScriptParser, kind: type, otherwise: str) -> None:
    """An option for each setting of the dataclass `kind`, None if it is not given; its help ends with `otherwise`."""
    described = {entry.arg_name: entry.description for entry in parse_docstring(kind.__doc__ or "").params}
    types = get_type_hints(kind)
    for field in fields(kind):
        text = f"{' '.join((described[field.name] or '').split()).rstrip('.')}; {otherwise} if not given."
        parser.add_argument(f"--{field.name}", type=types[field.name], help=text)


def overrides_of(kind: type, settings: Any) -> dict[str, Any]:
    """What `add_overrides` read, by name; None where nothing was given."""
    return {field.name: getattr(settings, field.name) for field in fields(kind)}


def values_of(kind: type[Config], settings: Any) -> Config:
    """The dataclass `kind` from the top-level settings of its field names."""
    return kind(**{field.name: getattr(settings, field.name) for field in fields(kind)})  # type: ignore[arg-type]
