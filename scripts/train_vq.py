"""Stage one: train a VQ-VAE on a collection of pictures.

vqlm train-vq --data openmoji --output runs/vq --max-minutes 3
"""

from pathlib import Path

from vqlm.data_prep.collections.source_names import require_data
from vqlm.data_prep.settings import DATA_HELP, CollectionConfig
from vqlm.scripts.closing import close_stage, collection_words
from vqlm.scripts.opening import fitted_as_begun, open_collection
from vqlm.scripts.options import ScriptParser, script_parser
from vqlm.scripts.run_script import run_script
from vqlm.scripts.settings_options import add_typed_settings, values_of
from vqlm.training.errors import require_range
from vqlm.training.folders.output_folder import require_output
from vqlm.training.old_names import COLLECTION_FORM
from vqlm.vq.quantizers.settings import CONFIGS
from vqlm.vq.settings import NetworkConfig, VQTrainingConfig

FIRST = (
    "data", "output", "max_minutes", "max_steps", "resume", "network.input_shape", "quantizer.type",
    "quantizer.codebook_size", "batch_size", "learning_rate",
)  # fmt: skip


def settings_parser(arguments: list[str] | None) -> ScriptParser:
    """The options; those of a quantizer depend on the type that `arguments` name."""
    parser = script_parser(__doc__, FIRST)
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument("--output", type=Path, required=True, help="Folder for the image tokenizer.")
    parser.add_argument("--max_pictures", type=int, default=200_000, help="Pictures to train on; they stay in memory.")
    parser.add_argument("--resume", type=bool, default=False, help="Continue the run in --output, if there is one.")
    parser.add_class_arguments(CollectionConfig)
    parser.add_class_arguments(VQTrainingConfig)
    parser.add_class_arguments(NetworkConfig, "network")
    add_typed_settings(parser, "quantizer", CONFIGS, "vq", arguments)
    return parser


def main(arguments: list[str] | None = None) -> None:
    settings = settings_parser(arguments).parse_args(arguments)
    config = values_of(VQTrainingConfig, settings)
    require_range(settings, "[1, inf)", "max_pictures")
    require_output(settings.output, settings.resume)
    require_data(settings.data)

    from vqlm.data_prep import load_pictures
    from vqlm.planning.reached import reached_by_vq
    from vqlm.vq import VQVAEConfig
    from vqlm.vq.train import train_vq

    shape = settings.network.input_shape
    collection = open_collection(settings, shape[0], needs_captions=False)
    if settings.resume:
        collection = fitted_as_begun(collection, settings.output)
    pictures = load_pictures(collection, shape, settings.max_pictures, config.seed)
    for note in pictures.notes():
        print(note, flush=True)
    model_config = VQVAEConfig(
        network=settings.network, quantizer=settings.quantizer,
        background=collection.config.background, fit=collection.config.fit_or_auto, attribution=collection.attribution,
    )  # fmt: skip
    provenance = {"collection": collection.fingerprint(), "collection_form": COLLECTION_FORM}
    train_vq(pictures.train, pictures.held_out, settings.output, model_config, config, provenance, settings.resume)
    words = collection_words(settings)
    next_command = ("prepare", "--data", settings.data, *words, "--image-tokenizer", settings.output, "--output")
    close_stage(reached_by_vq(settings.output), *next_command, settings.output.with_name("data"))


if __name__ == "__main__":
    run_script(main)
