"""Which quantizer reconstructs held-out pictures best after the same time? OpenMoji at 64x64, 64 codes of about 1,024.

    python benchmarks/image_tokenizers.py --minutes 3 --output runs/tokenizers

Prints the machine, the date and a table: PSNR and SSIM of held-out pictures, perplexity and usage of the codes of all
training pictures. Needs the extra `demo`. Nothing else should run on the machine meanwhile. Pictures per second include
the network, which is the same for all except `residual` and `grouped`: they give a position four codes, so their
network has 4x4 positions instead of 8x8.
"""

import argparse
import datetime
from pathlib import Path

import torch

from vqlm.data_prep import load_collection, load_pictures
from vqlm.training.folders.whole_files import read_json
from vqlm.training.machine.allocator import keep_freed_memory
from vqlm.training.machine.matrix_peak import describe_machine
from vqlm.vq import VQVAE, VQVAEConfig, to_pixel_values
from vqlm.vq.inspection import ssim
from vqlm.vq.settings import VQTrainingConfig
from vqlm.vq.train import evaluate_reconstruction, train_vq

FOUR_BY_FOUR = {"strides": [4, 4]}
# What stage one started with: AdamW for every weight.
FIRST_DEFAULT = {"optimizer": "adamw", "learning_rate": 1e-3}
# Settings of the network, of the quantizer and of the training that differ from the defaults.
TOKENIZERS: dict[str, tuple[dict, dict, dict]] = {
    "vq, EMA (the default)": ({}, {}, {}),
    "the first default: AdamW": ({}, {}, FIRST_DEFAULT),
    "vq, EMA, rotation": ({}, {"gradient_estimator": "rotation"}, {}),
    "vq, EMA, k-means start": ({}, {"initialization": "kmeans"}, {}),
    "vq, EMA, cosine": ({}, {"distance": "cosine"}, {}),
    "vq, EMA, 8 channels": ({}, {"codebook_dim": 8}, {}),
    "vq, gradient": ({}, {"codebook_training": "gradient"}, {}),
    "vq, gradient, random start, no revival": (
        {}, {"codebook_training": "gradient", "initialization": "random", "dead_code_threshold": 0.0}, {}),
    "SimVQ, rotation": ({}, {"codebook_training": "simvq", "gradient_estimator": "rotation"}, {}),
    "fsq 8 5 5 5": ({}, {"type": "fsq"}, {}),
    "lfq": ({}, {"type": "lfq"}, {}),
    "residual, 4 codes a position": (FOUR_BY_FOUR, {"type": "residual", "num_quantizers": 4}, {}),
    "grouped, 4 codes a position": (FOUR_BY_FOUR, {"type": "grouped", "num_groups": 4, "codebook_dim": 32}, {}),
    "vq of 16,384, EMA, 8 channels": ({}, {"codebook_size": 16384, "codebook_dim": 8}, {}),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> list[str]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="Time to train each, in minutes.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for the trained tokenizers.")
    parser.add_argument("--only", nargs="+", default=[""], help="Train those whose name contains one of these.")
    parser.add_argument("--data", default="openmoji", help="Collection of pictures.")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    loaded = load_pictures(load_collection(options.data, 64), [64, 64])
    pictures, held_out = loaded.train, loaded.held_out

    rows = ["| quantizer | PSNR, dB | SSIM | perplexity | usage | pictures/s |", "|---|---|---|---|---|---|"]
    for number, (name, (network, quantizer, training)) in enumerate(TOKENIZERS.items()):
        if not any(part in name for part in options.only):
            continue
        output = options.output / str(number)
        config = VQTrainingConfig(max_minutes=options.minutes, eval_every=10**9, **training)
        model = train_vq(pictures, held_out, output, VQVAEConfig(network=network, quantizer=quantizer), config)
        summary = read_json(output / "run" / "summary.json")
        rate = summary["steps"] * config.batch_size / summary["seconds"]
        codes = evaluate_reconstruction(model, pictures)
        usage, perplexity = codes["held_out_usage"], codes["held_out_perplexity"]
        rows.append(
            f"| {name} | {summary['held_out_psnr_db']:.2f} | {mean_ssim(model, held_out):.3f} | {perplexity:.0f} "
            f"| {100 * usage:.0f}% | {rate:.0f} |"
        )
    print(f"\n{datetime.date.today()}  {describe_machine()}\n{options.minutes} minutes each\n")
    print("\n".join(rows))
    return rows


@torch.no_grad()
def mean_ssim(model: VQVAE, pictures: torch.Tensor) -> float:
    values = []
    for part in pictures.split(64):
        pixel_values = to_pixel_values(part).to(model.device)
        values.append(ssim(model.decode_codes(model.encode(pixel_values)), pixel_values))
    return torch.cat(values).mean().item()


if __name__ == "__main__":
    main()
