"""Stage two: train a language model on a prepared set and save the finished model folder.

vqlm train-lm --data runs/data --output runs/model --max-minutes 5
"""

from pathlib import Path
from typing import Any

from vqlm.data_prep.settings import SequenceConfig
from vqlm.lm.settings import SETTINGS_FILE, LanguageModelConfig, LMTrainingConfig, SamplingConfig
from vqlm.scripts.closing import close_stage, say
from vqlm.scripts.options import ScriptParser, script_parser
from vqlm.scripts.run_script import run_script
from vqlm.scripts.settings_options import values_of
from vqlm.training.folders.folder_kinds import refuse_other_kind, require_kind
from vqlm.training.folders.output_folder import require_output
from vqlm.training.folders.whole_files import read_json

FIRST = (
    "data", "output", "max_minutes", "max_steps", "resume", "model.hidden_size", "model.num_hidden_layers",
    "batch_size", "learning_rate", "init_from",
)  # fmt: skip


def settings_parser() -> ScriptParser:
    """The options."""
    parser = script_parser(__doc__, FIRST)
    parser.add_argument("--data", type=Path, required=True, help="Folder that vqlm prepare wrote.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for the finished model.")
    parser.add_argument("--resume", type=bool, default=False, help="Continue the run in --output, if there is one.")
    parser.add_class_arguments(LMTrainingConfig)
    parser.add_class_arguments(LanguageModelConfig, "model")
    parser.add_class_arguments(SequenceConfig, "sequences")
    parser.add_class_arguments(SamplingConfig, "sampling")
    return parser


def main(arguments: list[str] | None = None) -> None:
    parser = settings_parser()
    settings = parser.parse_args(arguments)
    config = values_of(LMTrainingConfig, settings)
    require_output(settings.output, settings.resume)
    require_kind(settings.data, "prepared set")
    if config.init_from is not None:
        refuse_other_kind(config.init_from, "finished model")

    from vqlm.data_prep import PreparedSet
    from vqlm.lm.train.loop import train_lm
    from vqlm.planning.reached import reached_by_lm
    from vqlm.planning.without_effect import sampling_line

    prepared = PreparedSet.load(settings.data)
    train_lm(prepared, settings.output, settings.model, config, settings.sequences, settings.sampling, settings.resume)
    named = parser.named_in([word for word in parser.given if word.startswith("--sampling.")])
    if ignored := _ignored(settings.output, settings.sampling, named):
        say(sampling_line(settings.output, ignored, "sampling."))
    next_command = ("evaluate", "--model", settings.output, "--data", settings.data, "--output")
    close_stage(reached_by_lm(settings.output), *next_command, settings.output.with_name("report"))


def _ignored(model: Path, sampling: SamplingConfig, named: list[str]) -> dict[str, Any]:
    """The sampling settings that were given and that the finished `model` does not have: it was finished before, or
    has those of its start."""
    saved = read_json(model / SETTINGS_FILE)["sampling"]
    given = {
        name: value
        for name, value in vars(sampling).items()
        if value != getattr(SamplingConfig, name) or f"sampling.{name}" in named
    }
    return {name: value for name, value in given.items() if value != saved[name]}


if __name__ == "__main__":
    run_script(main)
