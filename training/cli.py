"""The command line that every script has: --help, --config FILE.yaml, dotted overrides, and errors in one line."""

import logging
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import datasets
import transformers
import yaml
from jsonargparse import ArgumentParser
from vqlm.training.errors import UserError

Config = TypeVar("Config")


class ScriptParser(ArgumentParser):
    """`--max-steps` and `--max_steps` are the same option; a wrong option ends in one line."""

    def parse_args(self, args=None, **kwargs):  # type: ignore[override]
        arguments = sys.argv[1:] if args is None else list(args)
        return super().parse_args([_with_underscores(argument) for argument in arguments], **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(f"{' '.join(message.split()).rstrip('.')}; --help lists every setting.") from ex


def script_parser(description: str | None) -> ScriptParser:
    """A parser that also reads `--config FILE.yaml`; unknown keys in it fail."""
    parser = ScriptParser(description=description)
    parser.add_argument("--config", action="config", help="YAML file of settings; later options override it.")
    return parser


def find_setting(arguments: list[str] | None, name: str, default: str) -> str:
    """The value that `--name` has on the command line or in a `--config` file; the last one counts."""
    given = [_with_underscores(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    found = default
    for argument, following in zip(given, [*given[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        value = value if equals else following
        if option == f"--{name}":
            found = value
        elif option == "--config" and Path(value).is_file():
            settings = yaml.safe_load(Path(value).read_text())
            for part in name.split("."):
                settings = settings.get(part) if isinstance(settings, dict) else None
            found = found if settings is None else str(settings)
    return found


def values_of(kind: type[Config], settings: Any) -> Config:
    """The dataclass `kind` from the top-level settings of its field names."""
    return kind(**{field.name: getattr(settings, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def run_script(main: Callable[[list[str] | None], Any]) -> None:
    """Run a script's `main`; a UserError becomes one line and exit status 2."""
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    # It warns that weights shared by two names are saved once, which is what tied embeddings want.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    try:
        main(None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _with_underscores(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
