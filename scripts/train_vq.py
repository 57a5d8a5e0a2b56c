"""Stage one: train a VQ-VAE on a collection of pictures.

python scripts/train_vq.py --data openmoji --output runs/vq --max-minutes 3
"""

from pathlib import Path

from data_prep import load_collection, load_pictures
from training.cli import find_setting, run_script, script_parser, values_of
from vq import NetworkConfig, VQVAEConfig
from vq.quantizers import quantizer_config_type
from vq.train import VQTrainingConfig, train_vq


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--data", required=True, help="openmoji, a folder of captioned pictures, or an .npz of arrays.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for the image tokenizer.")
    parser.add_argument("--resume", action="store_true", help="Continue the run in --output, if there is one.")
    parser.add_class_arguments(VQTrainingConfig)
    parser.add_class_arguments(NetworkConfig, "network")
    # The settings of a quantizer depend on its type, which is looked for first.
    parser.add_class_arguments(quantizer_config_type(find_setting(arguments, "quantizer.type", "vq")), "quantizer")
    settings = parser.instantiate(parser.parse_args(arguments))
    config = values_of(VQTrainingConfig, settings)

    collection = load_collection(settings.data, settings.network.input_shape[0])
    pictures = load_pictures(collection.train, settings.network.input_shape)
    held_out = load_pictures(collection.held_out, settings.network.input_shape)
    model_config = VQVAEConfig(
        network=settings.network, quantizer=settings.quantizer, attribution=collection.attribution
    )
    provenance = {"data": settings.data, "collection": collection.fingerprint()}
    train_vq(pictures, held_out, settings.output, model_config, config, provenance, settings.resume)


if __name__ == "__main__":
    run_script(main)
