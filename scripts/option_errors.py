"""What jsonargparse says of wrong options, as a sentence for a person."""

import difflib
import re
from typing import Any, Protocol, runtime_checkable

from vqlm.scripts.option_names import PLACES, option_name, options_of

_UNION = re.compile(r"(?:: )?Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors:.*"
                    r"Given value type: <class '\w+'> Given value: (.*)")  # fmt: skip
_NOT_FINITE = re.compile(r": expected (?:int or )?float, found (?=[-+]?(?:nan|inf(?:inity)?)$)", re.IGNORECASE)

# What transformers' Trainer and diffusers' scripts call a setting, and the option here.
OF_OTHERS = {
    "fp16": "--mixed-precision fp16",
    "bf16": "--mixed-precision bf16",
    "train_batch_size": "--batch-size",
    "per_device_train_batch_size": "--batch-size",
    "num_train_epochs": "--max-steps",
    "max_train_steps": "--max-steps",
    "resume_from_checkpoint": "--resume",
    "output_dir": "--output",
    "logging_steps": "--log-every",
    "eval_steps": "--eval-every",
    "save_steps": "--checkpoint-minutes",
    "checkpointing_steps": "--checkpoint-minutes",
    "report_to": "--log-with",
    "lr_scheduler": "--schedule",
    "lr_scheduler_type": "--schedule",
    "lr_warmup_steps": "--warmup-ratio",
    "warmup_steps": "--warmup-ratio",
    "auto_find_batch_size": "--find-batch-size",
    "dataloader_num_workers": "--num-workers",
}


@runtime_checkable
class Parser(Protocol):
    """What the sentences need to know of a `ScriptParser`."""

    _actions: Any
    file: Any
    prefix: Any

    def shown(self, name: str) -> str: ...


def sentence_of(parser: Parser, message: str) -> str:
    """`message` of jsonargparse in the words of `parser`, with the nearest option where one does not exist."""
    message = " ".join(message.split()).rstrip(".")
    if unknown := re.match(r"unrecognized arguments: --([\w.]+)", message):
        message = _unknown_option(parser, unknown[1])
    elif unknown := re.search(r"Group '([\w.]+)' does not accept option '(\w+)'", message):
        message = _unknown_option(parser, f"{unknown[1]}.{unknown[2]}")
    elif missing := re.match(r"the following arguments are required: (.*)", message):
        message = f"required, and not given: {', '.join(map(parser.shown, missing[1].split(', ')))}"
    elif (word := re.match(r"unrecognized arguments: (.*)", message)) and (place := _first_place(parser)):
        message = f"{word[1]} belongs to no option; did you mean {option_name(place)} {word[1]}?"
    elif unknown := re.search(r"[Oo]ption '(\w+)' is not accepted", message):  # of a --config file
        message = _unknown_option(parser, unknown[1])
        message += f" It stands in {parser.file}" if message.endswith("?") else f", in {parser.file}"
    message = re.sub(r'Parser key "([\w.]+)":', lambda key: f"{parser.shown(key[1])}:", message)
    message = _UNION.sub(_expected, message)
    message = re.sub(r"Unable to load config '(.*?)' - .*", r"there is no file \1", message)
    message = re.sub(r"Expected a typing.Literal\[(.*?)\]. Got value: ", r"expected one of \1, found ", message)
    message = re.sub(r"Expected a <class '(\w+)'>. Got value: ", r"expected \1, found ", message)
    message = _NOT_FINITE.sub(" must be a finite number, found ", message)
    return f"{message}{' ' if message.endswith('?') else '; '}--help lists every setting."


def _unknown_option(parser: Parser, name: str) -> str:
    group = name.rpartition(".")[0]
    siblings = [action.dest for action in parser._actions if group and action.dest.rpartition(".")[0] == group]
    if siblings:
        kinds = [f" of type {action.default}" for action in parser._actions if action.dest == f"{group}.type"]
        known = ", ".join(map(parser.shown, siblings))
        return f"there is no option {parser.shown(name)}; those of {group}{''.join(kinds)} are {known}"
    names = {option for action in parser._actions for option in options_of(action)}
    near = difflib.get_close_matches(option_name(name), names, n=1)
    if (here := OF_OTHERS.get(name.replace("-", "_"))) is not None and here.split()[0] in names:
        near = [here]
    meant = f"; did you mean --{parser.prefix}{near[0][2:]}?" if near else ""
    return f"there is no option {parser.shown(name)}{meant}"


def _first_place(parser: Parser) -> str | None:
    """The first required option that takes a file or a folder."""
    names = {action.dest for action in parser._actions if action.option_strings}
    return next((name for name in PLACES if name in names), None)


def _expected(match: re.Match) -> str:
    """What jsonargparse says of a value that fits no type of several, as a sentence."""
    kinds = [kind.rpartition(".")[2] for kind in re.findall(r"[\w.]+", re.sub(r"<class '([\w.]+)'>", r"\1", match[1]))]
    kinds = [kind for kind in kinds if kind not in ("NoneType", "class")]
    return f": expected {' or '.join(kinds)}, found {match[2]}"
