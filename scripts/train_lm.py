"""Stage two: train a language model on a prepared set and save the finished model folder.

vqlm train-lm --data runs/data --output runs/model --max-minutes 5
"""

from pathlib import Path

from vqlm.data_prep.settings import SequenceConfig
from vqlm.lm.settings import LanguageModelConfig, LMTrainingConfig, SamplingConfig
from vqlm.scripts.closing import close_stage
from vqlm.scripts.options import ScriptParser, run_script, script_parser, values_of
from vqlm.training.files import require_output

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
    settings = settings_parser().parse_args(arguments)
    config = values_of(LMTrainingConfig, settings)
    require_output(settings.output, settings.resume)

    from vqlm.data_prep import PreparedSet
    from vqlm.lm.train.loop import train_lm
    from vqlm.planning.reached import reached_by_lm

    prepared = PreparedSet.load(settings.data)
    train_lm(prepared, settings.output, settings.model, config, settings.sequences, settings.sampling, settings.resume)
    next_command = ("evaluate", "--model", settings.output, "--data", settings.data, "--output")
    close_stage(reached_by_lm(settings.output), *next_command, settings.output.with_name("report"))


if __name__ == "__main__":
    run_script(main)
