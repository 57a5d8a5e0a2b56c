"""Reference of settings, from the dataclasses: `python docs/settings_reference.py` prints it, `make docs` has it."""

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, get_args, get_origin

from docstring_parser import parse

from vqlm.data_prep.settings import CollectionConfig, SequenceConfig, TextConfig, ViewConfig
from vqlm.lm.settings import LanguageModelConfig, LMTrainingConfig, SamplingConfig
from vqlm.serve.settings import ServeConfig
from vqlm.training.config import TrainingConfig
from vqlm.vq.quantizers.settings import (
    FSQConfig,
    GroupedConfig,
    HierarchicalConfig,
    LFQConfig,
    ResidualConfig,
    VQConfig,
)
from vqlm.vq.settings import LossConfig, NetworkConfig, VQTrainingConfig

INTRODUCTION = """# Settings

Every setting of every stage with its default. On the command line a setting is `--name value` with dashes, one of a
group is `--group.name value`; in a file for `--config` it stands under its name with underscores.
`vqlm COMMAND --help` prints the same lists.
"""

# Heading, prefix of the option, dataclass. The settings of TrainingConfig stand once, defaults of a stage beside it.
SECTIONS = [
    ("Both trainings", "", TrainingConfig),
    ("Stage one: training", "", VQTrainingConfig),
    ("Stage one: losses", "loss", LossConfig),
    ("Stage one: encoder and decoder", "network", NetworkConfig),
    ("Quantizer `vq`", "quantizer", VQConfig),
    ("Quantizer `fsq`", "quantizer", FSQConfig),
    ("Quantizer `lfq`", "quantizer", LFQConfig),
    ("Quantizer `residual`", "quantizer", ResidualConfig),
    ("Quantizer `grouped`", "quantizer", GroupedConfig),
    ("Quantizer `hierarchical`", "quantizer", HierarchicalConfig),
    ("Collections", "", CollectionConfig),
    ("Captions and the vocabulary", "text", TextConfig),
    ("Views of a picture", "views", ViewConfig),
    ("Stage two: training", "", LMTrainingConfig),
    ("Stage two: the language model", "model", LanguageModelConfig),
    ("Stage two: rows", "sequences", SequenceConfig),
    ("Drawing", "sampling", SamplingConfig),
    ("Serving", "", ServeConfig),
]


def help_of(kind: type) -> dict[str, str]:
    """Name of a setting -> its line of help, those of the base classes included."""
    lines: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for parameter in parse(base.__doc__ or "").params:
            lines[parameter.arg_name] = " ".join((parameter.description or "").split())
    return lines


def settings_of(kind: type) -> Iterator[Field]:
    """The fields of a section: those of TrainingConfig only where a stage has another default."""
    shared = {field.name: field for field in fields(TrainingConfig)} if kind is not TrainingConfig else {}
    for field in fields(kind):
        if field.name not in shared or default_of(field) != default_of(shared[field.name]):
            yield field


def default_of(field: Field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def page(commit: str = "") -> str:
    """The page in Markdown."""
    parts = [INTRODUCTION]
    for heading, prefix, kind in SECTIONS:
        summary = parse(kind.__doc__ or "")
        introduction = " ".join(filter(None, [summary.short_description, summary.long_description])).split()
        parts.append(f"## {heading}\n\n{' '.join(introduction)}\n\n| setting | default | meaning |\n|---|---|---|")
        lines = help_of(kind)
        for field in settings_of(kind):
            if isinstance(field.default, str) and field.name == "type" and prefix == "quantizer":
                continue  # it is the heading
            parts.append(
                f"| `{prefix + '.' if prefix else ''}{field.name}` | {_shown(default_of(field))} | "
                f"{_escaped(lines[field.name])}{_choices(field.type)} |"
            )
        parts.append("")
    if commit:
        parts.append(f"*Written from the dataclasses of commit {commit}.*\n")
    return "\n".join(parts)


def _shown(default: Any) -> str:
    if isinstance(default, (list, dict, str, int, float, bool)):
        return f"`{default}`" if default != "" else "empty"
    return "none" if default is None else "see the group of that name"


def _choices(annotation: Any) -> str:
    """The allowed values, where the help does not have to repeat them."""
    if get_origin(annotation) is Literal:
        return f" One of {', '.join(f'`{value}`' for value in get_args(annotation))}."
    return ""


def _escaped(line: str) -> str:
    return line.replace("|", "\\|").replace("{}", "`{}`")


if __name__ == "__main__":
    print(page())
