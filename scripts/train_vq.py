"""Stage one: train a VQ-VAE on a collection of pictures.

python scripts/train_vq.py --data openmoji --output runs/vq --max-minutes 3
"""

from pathlib import Path

from vqlm.data_prep import DATA_HELP, CollectionConfig, load_collection, load_pictures
from vqlm.training.cli import find_setting, run_script, script_parser, values_of
from vqlm.vq import NetworkConfig, VQVAEConfig
from vqlm.vq.quantizers.settings import quantizer_config_type
from vqlm.vq.settings import VQTrainingConfig
from vqlm.vq.train import train_vq


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument("--output", type=Path, required=True, help="Folder for the image tokenizer.")
    parser.add_argument("--max_pictures", type=int, default=200_000, help="Pictures to train on; they stay in memory.")
    parser.add_argument("--resume", action="store_true", help="Continue the run in --output, if there is one.")
    parser.add_class_arguments(CollectionConfig)
    parser.add_class_arguments(VQTrainingConfig)
    parser.add_class_arguments(NetworkConfig, "network")
    # The settings of a quantizer depend on its type, which is looked for first.
    parser.add_class_arguments(quantizer_config_type(find_setting(arguments, "quantizer.type", "vq")), "quantizer")
    settings = parser.instantiate(parser.parse_args(arguments))
    config = values_of(VQTrainingConfig, settings)

    shape = settings.network.input_shape
    collection = load_collection(settings.data, shape[0], values_of(CollectionConfig, settings))
    pictures = load_pictures(collection, shape, settings.max_pictures)
    if skipped := pictures.skipped.summary():
        print(skipped, flush=True)
    model_config = VQVAEConfig(
        network=settings.network, quantizer=settings.quantizer,
        background=collection.config.background, attribution=collection.attribution,
    )  # fmt: skip
    provenance = {"data": settings.data, "collection": collection.fingerprint()}
    train_vq(pictures.train, pictures.held_out, settings.output, model_config, config, provenance, settings.resume)


if __name__ == "__main__":
    run_script(main)
