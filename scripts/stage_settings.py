"""`--vq.NAME VALUE` of `vqlm train` is `--NAME VALUE` of `vqlm train-vq`: read by the parser of that command."""

from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from functools import reduce
from typing import Any

from vqlm.scripts import prepare_data, train_lm, train_vq
from vqlm.scripts.options import SET_BY_TRAIN, ScriptParser
from vqlm.training.errors import UserError

STAGES = {"vq": "train_vq", "prepare": "prepare", "lm": "train_lm"}  # prefix -> stage of a plan
NEEDED = ["--data", "data", "--output", "output"]


def split_by_stage(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Words that are no stage's, and those of each stage by its prefix, without the prefix.

    An option takes the words that follow it up to the next option.
    """
    others: list[str] = []
    of_stages: dict[str, list[str]] = {}
    place = others
    for word in words:
        if word.startswith("--"):
            prefix, dot, rest = word[2:].partition(".")
            is_stage = bool(dot) and prefix in STAGES
            place = of_stages.setdefault(prefix, []) if is_stage else others
            word = f"--{rest}" if is_stage else word
        place.append(word)
    return others, of_stages


def typed_settings(prefix: str, words: list[str]) -> dict[str, Any]:
    """What `words` set, nested as in the YAML of the stage's command.

    Raises UserError as that command would, and for what `vqlm train` sets itself.
    """
    parser = _parser(prefix, words)
    names = parser.named_in(words)
    if taken := [name for name in names if name in SET_BY_TRAIN]:
        raise UserError(f"--{prefix}.{taken[0]} is set by `vqlm train` itself; leave it out.")
    parsed = parser.parse_args([*NEEDED, *(["--image-tokenizer", "vq"] if prefix == "prepare" else []), *words])
    settings: dict[str, Any] = {}
    for name in names:
        *groups, last = name.split(".")
        place = reduce(lambda inside, group: inside.setdefault(group, {}), groups, settings)
        value = reduce(getattr, name.split("."), parsed)
        place[last] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return settings


def _parser(prefix: str, words: list[str]) -> ScriptParser:
    if prefix == "vq":
        parser = train_vq.settings_parser(words)
    else:
        parser = prepare_data.settings_parser() if prefix == "prepare" else train_lm.settings_parser()
    parser.prefix = f"{prefix}."
    return parser
