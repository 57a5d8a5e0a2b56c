"""Stage two: train a language model on a prepared set and save the finished model folder.

python scripts/train_lm.py --data runs/data --output runs/model --max-minutes 5
"""

from pathlib import Path

from vqlm.data_prep import PreparedSet, SequenceConfig
from vqlm.lm import LanguageModelConfig, SamplingConfig
from vqlm.lm.settings import LMTrainingConfig
from vqlm.lm.train.loop import train_lm
from vqlm.training.cli import run_script, script_parser, values_of


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Folder that prepare_data.py wrote.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for the finished model.")
    parser.add_argument("--resume", action="store_true", help="Continue the run in --output, if there is one.")
    parser.add_class_arguments(LMTrainingConfig, skip={"lora"})
    parser.add_argument(  # so that --lora alone says it too
        "--lora", type=bool, nargs="?", const=True, default=False, help="Train low-rank adapters of --init-from alone."
    )
    parser.add_class_arguments(LanguageModelConfig, "model")
    parser.add_class_arguments(SequenceConfig, "sequences")
    parser.add_class_arguments(SamplingConfig, "sampling")
    settings = parser.instantiate(parser.parse_args(arguments))
    config = values_of(LMTrainingConfig, settings)
    prepared = PreparedSet.load(settings.data)
    train_lm(prepared, settings.output, settings.model, config, settings.sequences, settings.sampling, settings.resume)


if __name__ == "__main__":
    run_script(main)
