"""Between the stages: encode a collection's pictures to codes and its captions to one vocabulary.

vqlm prepare --data openmoji --image-tokenizer runs/vq --output runs/data
"""

from pathlib import Path
from typing import Literal

from vqlm.data_prep.collections.source_names import require_data
from vqlm.data_prep.settings import DATA_HELP, CollectionConfig, TextConfig, ViewConfig
from vqlm.scripts.closing import close_stage
from vqlm.scripts.opening import open_for_tokenizer
from vqlm.scripts.options import ScriptParser, script_parser
from vqlm.scripts.run_script import run_script
from vqlm.training.errors import UserError, require_range
from vqlm.training.folders.folder_kinds import require_kind
from vqlm.training.folders.output_folder import require_output

FIRST = (
    "data", "image_tokenizer", "output", "resume", "views.views", "text.size", "text.pretrained", "for_model",
    "num_workers", "max_skipped",
)  # fmt: skip


def settings_parser() -> ScriptParser:
    """The options."""
    parser = script_parser(__doc__, FIRST)
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument("--image_tokenizer", type=Path, help="Folder that vqlm train-vq finished.")
    parser.add_argument(
        "--for_model",
        type=Path,
        help="Instead of --image-tokenizer: finished model that will learn these pictures; its tokenizers encode them.",
    )
    parser.add_argument("--output", type=Path, required=True, help="Folder for the prepared set.")
    parser.add_argument(
        "--modalities", type=dict[str, int], default={}, help='Further ranges of codes, such as {"sound": 512}.'
    )
    parser.add_argument(
        "--resume", type=bool, default=False, help="Continue the prepared set in --output, if it is this one."
    )
    parser.add_argument(
        "--num_workers", type=int, help="Processes that decode, on a CPU encode too; by default one per core."
    )
    parser.add_argument(
        "--mixed_precision",
        type=Literal["auto", "bf16", "no"],
        default="auto",
        help="The encoder's: auto is bf16 where the device multiplies it fast.",
    )
    parser.add_class_arguments(CollectionConfig)
    parser.add_class_arguments(ViewConfig, "views")
    parser.add_class_arguments(TextConfig, "text")
    return parser


def main(arguments: list[str] | None = None) -> None:
    parser = settings_parser()
    settings = parser.parse_args(arguments)
    is_text_given = any(name.startswith("text.") for name in parser.named_in(parser.given))
    text = settings.text if is_text_given or settings.text != TextConfig() else None

    model = settings.for_model
    if (model is None) == (settings.image_tokenizer is None):
        raise UserError(
            "give either `image_tokenizer` (for a new model) or `for_model` (to continue a finished one); found "
            f"{'neither' if model is None else 'both'}."
        )
    require_range(settings, "[0, inf)", "num_workers")
    require_output(settings.output, settings.resume)
    require_kind(*((settings.image_tokenizer, "image tokenizer") if model is None else (model, "finished model")))
    require_data(settings.data)

    from vqlm.data_prep import Vocabulary, prepare
    from vqlm.planning.reached import reached_by_prepare
    from vqlm.training.machine.processes import precision_with_launcher
    from vqlm.vq import load_image_tokenizer

    precision = precision_with_launcher(settings.mixed_precision, ("bf16", "no"))
    image_tokenizer = load_image_tokenizer(settings.image_tokenizer if model is None else model / "image_tokenizer")
    vocabulary = None if model is None else Vocabulary.from_pretrained(model)
    collection = open_for_tokenizer(settings, image_tokenizer)
    prepare(
        collection, image_tokenizer, settings.output, settings.data, text, settings.modalities,
        views=settings.views,
        num_workers=settings.num_workers, resume=settings.resume, vocabulary=vocabulary,
        mixed_precision=precision,  # type: ignore[arg-type]
    )  # fmt: skip
    next_command = ("train-lm", "--data", settings.output, "--output", settings.output.with_name("model"))
    start = () if model is None else ("--init-from", model)
    close_stage(reached_by_prepare(settings.output), *next_command, *start)


if __name__ == "__main__":
    run_script(main)
