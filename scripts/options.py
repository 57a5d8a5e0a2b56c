"""The command line that every script has: --help, --config FILE.yaml, dotted overrides, and errors in one line.

A script parses before it imports anything heavy, so that `--help` and a wrong option answer at once.
"""

import argparse
import contextlib
import difflib
import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, DefaultHelpFormatter
from vqlm.data_prep.settings import BETWEEN_COLLECTIONS, DATA_HELP
from vqlm.training.errors import UserError
from vqlm.training.old_names import OLD_NAMES, with_new_names

Config = TypeVar("Config")

PLACES = ("model", "data", "output", "config", "plan", "start", "init_from", "image", "mask", "page")  # files, folders
# What `vqlm train` gives to its stages itself.
SET_BY_TRAIN = {"config", "data", "output", "resume", "image_tokenizer", "for_model", "init_from"}
_UNION = re.compile(r"(?:: )?Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors:.*"
                    r"Given value type: <class '\w+'> Given value: (.*)")  # fmt: skip
# How the library names a setting.
_NAMES = re.compile(r"`([a-z]\w*(?:\.\w+)*)`")


class ScriptParser(ArgumentParser):
    """`--max-steps` and `--max_steps` are the same option, and so is a renamed one; `--x` and `--no-x` set a boolean.

    Args:
        description: the script's docstring.
        first: destinations that --help lists first, in this order.

    Attributes:
        given: the words that were parsed.
        file: the --config file that was read last.
        prefix: what stands before the names of options in errors, such as "lm." where `vqlm train` reads those of a
            stage.
    """

    in_use: "ScriptParser | None" = None  # whose options an error is told by

    def __init__(self, description: str | None, first: Sequence[str] = ()):
        self.first, self.given, self.prefix, self.file = first, [], "", None
        super().__init__(
            description=description, formatter_class=_HelpFormatter, usage="%(prog)s [OPTION ...]", allow_abbrev=False
        )
        self.add_argument("--config", action="config", help="YAML file of settings; later options override it.")

    def parse_args(self, args=None, **kwargs):  # type: ignore[override]
        ScriptParser.in_use = self
        self.given = sys.argv[1:] if args is None else list(args)
        words: list[str] = []
        for argument in self.given:
            if argument in ("true", "false") and words and words[-1].endswith("=true"):  # as `--lora true` was said
                option, new = _option(words[-1][2:-5]), "" if argument == "true" else "no-"
                print(f"note: {option} {argument} is now written --{new}{option[2:]}.", file=sys.stderr)
                words[-1] = words[-1].removesuffix("true") + argument
            else:
                words.append(self._spelled_out(argument))
        words = self._with_positionals(self._with_joined_collections(words))
        self._refuse_empty_places(words)
        try:
            return self.instantiate(super().parse_args(words, **kwargs))
        except UserError:
            raise
        except UnicodeDecodeError as error:
            raise UserError(
                f"a --config file is not UTF-8 ({error.reason}, byte {error.start}); save it as UTF-8."
            ) from None
        except (TypeError, ValueError, AttributeError, KeyError, RecursionError) as error:
            # Values of a kind that jsonargparse did not foresee, such as a list where a group of settings is.
            is_no_group = "argument after ** must be a mapping" in str(error)
            reason = (
                "a single value where a group of settings is" if is_no_group else " ".join(str(error).split())[:160]
            )
            raise UserError(f"the settings cannot be read ({reason}); --help lists every setting.") from error

    def parse_path(self, cfg_path, *args, **kwargs):  # a --config file, which `parse_string` reads then
        try:
            settings = yaml.safe_load(Path(str(cfg_path)).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"`config` {cfg_path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
        except OSError as error:
            raise UserError(f"`config` {cfg_path} cannot be read ({error.strerror}); name a YAML file.") from None
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            reason = getattr(error, "problem", None) or type(error).__name__
            raise UserError(f"`config` {cfg_path} is not YAML ({reason}{where}); correct that line.") from None
        if not isinstance(settings, dict | None):
            raise UserError(f"`config` {cfg_path} must hold settings such as `batch_size: 8`, found {settings!r:.40}.")
        self.file = cfg_path
        return super().parse_path(cfg_path, *args, **kwargs)

    def parse_string(self, content, *args, **kwargs):  # a --config file
        try:
            settings = yaml.safe_load(content)
        except (yaml.YAMLError, ValueError, RecursionError):
            settings = None  # which jsonargparse reports
        else:
            content = "{}" if settings is None else content  # a file of comments only
        if isinstance(settings, dict):
            changed = self._as_words(with_new_names(_with_underscores(settings)))
            for name, value in changed.items():
                self._refuse_empty_place(name, value)
            if isinstance(data := changed.get("data"), list) and self._takes_collections():
                changed |= {"data": BETWEEN_COLLECTIONS.join(map(str, data))}
            content = yaml.safe_dump(changed) if changed != settings else content
        return super().parse_string(content, *args, **kwargs)

    def _as_words(self, settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        """`settings` of a YAML file, where an unquoted yes or no is a boolean, with these words where a setting takes
        them, as in `mixed_precision: no`."""
        words = {True: "yes", False: "no"}
        kinds = {action.dest: getattr(action, "_typehint", None) for action in self._actions}
        result: dict[str, Any] = {}
        for name, value in settings.items():
            if isinstance(value, dict):
                result[name] = self._as_words(value, f"{prefix}{name}.")
            else:
                is_word = isinstance(value, bool) and words[value] in get_args(kinds.get(f"{prefix}{name}"))
                result[name] = words[value] if is_word else value
        return result

    def _takes_collections(self) -> bool:
        return any(action.dest == "data" and action.help == DATA_HELP for action in self._actions)

    def _with_joined_collections(self, words: list[str]) -> list[str]:
        """`--data a --data b` as the one value that `load_collection` takes."""
        if not self._takes_collections():
            return words
        others, data = [], []
        rest = iter(words)
        for word in rest:
            if word == "--data" or word.startswith("--data="):
                data.append(word.partition("=")[2] if "=" in word else next(rest, ""))
            else:
                others.append(word)
        return words if len(data) < 2 else [f"--data={BETWEEN_COLLECTIONS.join(data)}", *others]

    def _with_positionals(self, words: list[str]) -> list[str]:
        """`--data D`, as most commands take it, where `D` alone is the form of this one."""
        names = {f"--{name}" for name in self._places_alone}
        others, given = [], []
        rest = iter(words)
        for word in rest:
            name, equals, value = word.partition("=")
            if name in names:
                given.append(value if equals else next(rest, ""))
            else:
                others.append(word)
        return given + others

    @property
    def _places_alone(self) -> list[str]:
        return [action.dest for action in self._actions if not action.option_strings]

    def _refuse_empty_places(self, words: list[str]) -> None:
        """Raises UserError for `--output ""`, which would be the current folder."""
        before = ""
        for word in words:
            name, equals, value = word.partition("=")
            if word.startswith("--"):
                before = "" if equals else name[2:]
                if equals:
                    self._refuse_empty_place(name[2:], value)
            else:
                self._refuse_empty_place(before or next(iter(self._places_alone), ""), word)
                before = ""

    def _refuse_empty_place(self, name: str, value: Any) -> None:
        """Raises UserError if the option `name` takes a file or a folder and `value` names none."""
        if not isinstance(value, str) or value.strip():
            return
        kinds = [getattr(action, "_typehint", None) or action.type for action in self._actions if action.dest == name]
        if name in PLACES or any(Path in (kind, *get_args(kind)) for kind in kinds):
            raise UserError(f"{self._shown(name)} is empty; name a file or a folder, or leave it out.")

    def _shown(self, name: str) -> str:
        """How a person writes it: DATA, or --max-steps."""
        return name.upper() if name in self._places_alone else _option(f"{self.prefix}{name}")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = " ".join(message.split()).rstrip(".")
        if unknown := re.match(r"unrecognized arguments: --([\w.]+)", message):
            message = self._unknown(unknown[1])
        elif unknown := re.search(r"Group '([\w.]+)' does not accept option '(\w+)'", message):
            message = self._unknown(f"{unknown[1]}.{unknown[2]}")
        elif missing := re.match(r"the following arguments are required: (.*)", message):
            message = f"required, and not given: {', '.join(map(self._shown, missing[1].split(', ')))}"
        elif (word := re.match(r"unrecognized arguments: (.*)", message)) and (place := self._first_place()):
            message = f"{word[1]} belongs to no option; did you mean {_option(place)} {word[1]}?"
        elif unknown := re.search(r"[Oo]ption '(\w+)' is not accepted", message):  # of a --config file
            message = self._unknown(unknown[1])
            message += f" It stands in {self.file}" if message.endswith("?") else f", in {self.file}"
        message = re.sub(r'Parser key "([\w.]+)":', lambda key: f"{self._shown(key[1])}:", message)
        message = _UNION.sub(_expected, message)
        message = re.sub(r"Unable to load config '(.*?)' - .*", r"there is no file \1", message)
        message = re.sub(r"Expected a typing.Literal\[(.*?)\]. Got value: ", r"expected one of \1, found ", message)
        message = re.sub(r"Expected a <class '(\w+)'>. Got value: ", r"expected \1, found ", message)
        raise UserError(f"{message}{' ' if message.endswith('?') else '; '}--help lists every setting.") from ex

    def _unknown(self, name: str) -> str:
        group = name.rpartition(".")[0]
        siblings = [action.dest for action in self._actions if group and action.dest.rpartition(".")[0] == group]
        if siblings:
            kinds = [f" of type {action.default}" for action in self._actions if action.dest == f"{group}.type"]
            known = ", ".join(map(self._shown, siblings))
            return f"there is no option {self._shown(name)}; those of {group}{''.join(kinds)} are {known}"
        names = {option for action in self._actions for option in _options_of(action)}
        near = difflib.get_close_matches(_option(name), names, n=1)
        meant = f"; did you mean --{self.prefix}{near[0][2:]}?" if near else ""
        return f"there is no option {self._shown(name)}{meant}"

    def _first_place(self) -> str | None:
        """The first required option that takes a file or a folder."""
        names = {action.dest for action in self._actions if action.option_strings}
        return next((name for name in PLACES if name in names), None)

    def format_help(self, *args, **kwargs) -> str:
        self.usage = " ".join(["%(prog)s", *map(str.upper, self._places_alone), "[OPTION ...]"])
        actions = {action.dest: action for action in self._actions}
        for group in self._action_groups:
            group._group_actions = [a for a in group._group_actions if a.dest not in self.first]
            # The name of a settings class and "Load a group from a file" say nothing to a person.
            group._group_actions = [a for a in group._group_actions if type(a).__name__ != "_ActionConfigLoad"]
        if self.first:
            group = self.add_argument_group("what people set")
            group._group_actions = [actions[name] for name in self.first if name in actions]  # type: ignore[assignment]
            self._action_groups = [group, *(other for other in self._action_groups if other is not group)]
        return super().format_help(*args, **kwargs)

    def in_options(self, text: str, others: Sequence[str] = ()) -> str:
        """A sentence of the library, which speaks of arguments, in terms of the options of this script, and of `others`
        of another one."""
        names = {*others, *(action.dest for action in self._actions if action.option_strings)}

        def replace(match: re.Match) -> str:
            name = match[1]
            inside = [full for full in names if full.endswith(f".{name}")]
            if name not in names and len(inside) == 1:
                name = inside[0]
            return _option(name) if name in names else match[0]

        return _NAMES.sub(replace, text)

    @contextlib.contextmanager
    def around(self, prefix: str = "") -> Iterator[None]:
        """Run another command inside; afterwards this parser is the one in use again.

        An error of that command is told by the options of this one, or by its own with `prefix`, such as "lm.".
        """
        try:
            yield
        except UserError as error:
            inner = ScriptParser.in_use
            raise UserError(self._with_prefix(str(error), inner, prefix)) from error
        finally:
            ScriptParser.in_use = self

    def _with_prefix(self, text: str, inner: "ScriptParser | None", prefix: str) -> str:
        ours = {action.dest for action in self._actions}
        theirs = set() if inner is None else {action.dest for action in inner._actions if action.option_strings}

        def replace(match: re.Match) -> str:
            name = match[1]
            is_theirs = prefix and name in theirs - ours - SET_BY_TRAIN
            return _option(f"{prefix}{name}") if is_theirs else match[0]

        return _NAMES.sub(replace, text)

    def named_in(self, words: Sequence[str]) -> list[str]:
        """The destinations that options in `words` set, in order."""
        return [self._spelled_out(word)[2:].partition("=")[0] for word in words if word.startswith("--")]

    def _spelled_out(self, argument: str) -> str:
        """`--max-steps=5` -> `--max_steps=5`; `--lora` -> `--lora=true`; `--no-lora` -> `--lora=false`."""
        if not argument.startswith("--"):
            return argument
        name, equals, value = argument[2:].partition("=")
        name = name.replace("-", "_")
        if name in OLD_NAMES:
            print(f"note: {_option(name)} is now called {_option(OLD_NAMES[name])}.", file=sys.stderr)
            name = OLD_NAMES[name]
        booleans = {action.dest for action in self._actions if _is_boolean(action)}
        if not equals and name in booleans:
            return f"--{name}=true"
        if not equals and name.startswith("no_") and name[3:] in booleans:
            return f"--{name[3:]}=false"
        return f"--{name}{equals}{value}"


class _HelpFormatter(DefaultHelpFormatter):
    """Options with dashes; both forms of a boolean."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return action.dest.upper()
        names = _options_of(action)
        if not names or _is_boolean(action) or action.nargs == 0:
            return ", ".join(names)
        return f"{', '.join(names)} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _get_type_str(self, action: argparse.Action) -> str | None:
        is_path = Path in (action.type, getattr(action, "_typehint", None))
        return "path" if is_path else super()._get_type_str(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))  # commands stay lines


def script_parser(description: str | None, first: Sequence[str] = ()) -> ScriptParser:
    """A parser that also reads `--config FILE.yaml`; unknown keys in it fail. `first` are listed first by --help."""
    return ScriptParser(description, first)


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
        raise UserError(f"{_option(name)}.type must be one of {', '.join(kinds)}, found {chosen!r}.")
    others = ", ".join(kind for kind in kinds if kind != chosen)
    parser.add_argument(
        f"--{name}.type",
        type=Literal[tuple(kinds)],
        default=chosen,
        help=f"The settings of {chosen} are below; `{_option(name)}.type TYPE --help` shows those of {others}.",
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


def run_script(main: Callable[[list[str] | None], Any], arguments: list[str] | None = None) -> None:
    """Run a script's `main`; a UserError or a full disk becomes one line and exit status 2, Ctrl-C one line and 130.

    Of several processes of one machine the first one says it.
    """
    _quiet_libraries()
    try:
        main(arguments)
    except KeyboardInterrupt:
        _end(f"\nstopped{_how_to_continue()}", 128 + signal.SIGINT)  # as a shell has it
    except SystemExit as stopped:
        if (message := getattr(stopped, "message", None)) and os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{message}{_how_to_continue()}", file=sys.stderr)
        raise
    except UserError as error:
        _end(f"error: {ScriptParser.in_use.in_options(str(error)) if ScriptParser.in_use else error}", 2)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if sentence := _cannot_open(error):
            _end(f"error: {sentence}", 2)
        if not _is_disk_full(error):
            raise
        _end(f"error: the disk is full ({' '.join(str(error).split())[:200]}); make room{_how_to_continue()}.", 2)


def _end(text: str, status: int) -> NoReturn:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr)
    sys.exit(status)


def _is_disk_full(error: Exception) -> bool:
    """safetensors says it in its own kind of exception."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def _cannot_open(error: Exception) -> str | None:
    """A sentence for a file that this user may not read or write, or whose path is none; None for another error."""
    kinds = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
             errno.EIO)  # fmt: skip
    if not isinstance(error, OSError) or error.errno not in kinds or error.filename is None:
        return None
    return f"{error.filename} cannot be read or written ({error.strerror}); check its path and who may use it."


def _how_to_continue() -> str:
    """How the script in use goes on, if it can."""
    parser = ScriptParser.in_use
    if parser is None or not any(action.dest == "resume" for action in parser._actions):
        return ""
    return "; the same command with --resume continues it"


def _quiet_libraries() -> None:
    """No progress bars of transformers and datasets, which read these variables when they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # It warns that weights shared by two names are saved once, which is what tied embeddings want.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)


def _with_underscores(settings: Any) -> Any:
    """Settings of a YAML file whose names may be written with dashes, as options are."""
    if not isinstance(settings, dict):
        return settings
    return {
        name.replace("-", "_") if isinstance(name, str) else name: _with_underscores(value)
        for name, value in settings.items()
    }


def _expected(match: re.Match) -> str:
    """What jsonargparse says of a value that fits no type of several, as a sentence."""
    kinds = [kind.rpartition(".")[2] for kind in re.findall(r"[\w.]+", re.sub(r"<class '([\w.]+)'>", r"\1", match[1]))]
    kinds = [kind for kind in kinds if kind not in ("NoneType", "class")]
    return f": expected {' or '.join(kinds)}, found {match[2]}"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _options_of(action: argparse.Action) -> list[str]:
    """Options as a person types them, --no-... among them for a boolean."""
    names = [
        name if name == "-h" else _option(name.removeprefix("--")) for name in action.option_strings if name[-1] != "+"
    ]
    return [*names, f"--no-{names[0][2:]}"] if _is_boolean(action) else names


def _is_boolean(action: argparse.Action) -> bool:
    return getattr(action, "_typehint", None) is bool
