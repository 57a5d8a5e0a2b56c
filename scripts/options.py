"""The command line that every script has: --help, --config FILE.yaml, dotted overrides, and errors in one line.

A script parses before it imports anything heavy, so that `--help` and a wrong option answer at once.
"""

import argparse
import contextlib
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn, get_args

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from vqlm.data_prep.settings import BETWEEN_COLLECTIONS, DATA_HELP
from vqlm.scripts.config_file import require_settings_file, with_underscores, with_words
from vqlm.scripts.option_errors import sentence_of
from vqlm.scripts.option_names import PLACES, is_boolean, option_name, options_of
from vqlm.training.errors import UserError
from vqlm.training.old_names import OLD_NAMES, with_new_names

# What `vqlm train` gives to its stages itself.
SET_BY_TRAIN = {"config", "data", "output", "resume", "image_tokenizer", "for_model", "init_from"}
# Where infinity means that there is no limit.
UNLIMITED = ("max_grad_norm", "loss.max_adaptive_weight")
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
    outer: "ClassVar[list[tuple[ScriptParser, str]]]" = []  # commands that run this one, see `around`

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
                option, new = option_name(words[-1][2:-5]), "" if argument == "true" else "no-"
                print(f"note: {option} {argument} is now written --{new}{option[2:]}.", file=sys.stderr)
                words[-1] = words[-1].removesuffix("true") + argument
            else:
                words.append(self._spelled_out(argument))
        words = self._with_positionals(self._with_joined_collections(words))
        self._refuse_empty_places(words)
        try:
            settings = super().parse_args(words, **kwargs)
            self._require_finite(settings)
            return self.instantiate(settings)
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

    def _require_finite(self, settings: Namespace) -> None:
        for name, value in settings.items():
            is_no_limit = value == math.inf and name in UNLIMITED
            if isinstance(value, float) and not math.isfinite(value) and not is_no_limit:
                raise UserError(f"{self.shown(name)} must be a finite number, found {value}.")

    def parse_path(self, cfg_path, *args, **kwargs):  # a --config file, which `parse_string` reads then
        require_settings_file(Path(str(cfg_path)))
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
            kinds = {action.dest: getattr(action, "_typehint", None) for action in self._actions}
            changed = with_words(with_new_names(with_underscores(settings)), kinds)
            for name, value in changed.items():
                self._refuse_empty_place(name, value)
            if isinstance(data := changed.get("data"), list) and self._takes_collections():
                changed |= {"data": BETWEEN_COLLECTIONS.join(map(str, data))}
            content = yaml.safe_dump(changed) if changed != settings else content
        return super().parse_string(content, *args, **kwargs)

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
            raise UserError(f"{self.shown(name)} is empty; name a file or a folder, or leave it out.")

    def shown(self, name: str) -> str:
        """How a person writes the option `name`: DATA, or --max-steps."""
        return name.upper() if name in self._places_alone else option_name(f"{self.prefix}{name}")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(sentence_of(self, message)) from ex

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
            return option_name(name) if name in names else match[0]

        return _NAMES.sub(replace, text)

    @contextlib.contextmanager
    def around(self, prefix: str = "") -> Iterator[None]:
        """Run another command inside; afterwards this parser is the one in use again.

        An error of that command is told by the options of this one, or by its own with `prefix`, such as "lm.".
        """
        ScriptParser.outer.append((self, prefix))
        try:
            yield
        except UserError as error:
            inner = ScriptParser.in_use
            raise UserError(self._with_prefix(str(error), inner, prefix)) from error
        finally:
            ScriptParser.outer.pop()
            ScriptParser.in_use = self

    @classmethod
    def told(cls, text: str) -> str:
        """A sentence of the library in terms of the options of the command that a person started."""
        parser = cls.in_use
        for outer, prefix in reversed(cls.outer):
            text, parser = outer._with_prefix(text, parser, prefix), outer
        return text if parser is None else parser.in_options(text)

    def _with_prefix(self, text: str, inner: "ScriptParser | None", prefix: str) -> str:
        ours = {action.dest for action in self._actions}
        theirs = set() if inner is None else {action.dest for action in inner._actions if action.option_strings}

        def replace(match: re.Match) -> str:
            name = match[1]
            is_theirs = prefix and name in theirs - ours - SET_BY_TRAIN
            return option_name(f"{prefix}{name}") if is_theirs else match[0]

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
            print(f"note: {option_name(name)} is now called {option_name(OLD_NAMES[name])}.", file=sys.stderr)
            name = OLD_NAMES[name]
        booleans = {action.dest for action in self._actions if is_boolean(action)}
        if not equals and name in booleans:
            return f"--{name}=true"
        if not equals and name.startswith("no_") and name[3:] in booleans:
            return f"--{name[3:]}=false"
        return f"--{name}{equals}{value}"


class _HelpFormatter(DefaultHelpFormatter):
    """Options with dashes; both forms of a boolean; no default where an option has none."""

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        return text.replace(", default: null)", ")").removesuffix(" (default: null)")

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return action.dest.upper()
        names = options_of(action)
        if not names or is_boolean(action) or action.nargs == 0:
            return ", ".join(names)
        return f"{', '.join(names)} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _get_type_str(self, action: argparse.Action) -> str | None:
        is_path = Path in (action.type, getattr(action, "_typehint", None))
        kind = "path" if is_path else super()._get_type_str(action)
        return kind and kind.removesuffix(" | null").replace(", null]", "]")

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))  # commands stay lines


def script_parser(description: str | None, first: Sequence[str] = ()) -> ScriptParser:
    """A parser that also reads `--config FILE.yaml`; unknown keys in it fail. `first` are listed first by --help."""
    return ScriptParser(description, first)
