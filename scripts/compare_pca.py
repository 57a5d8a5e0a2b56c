"""PCA against a finished VQ-VAE at equal bits per picture: eigen-pictures, both reconstructions, PSNR against bits.

vqlm compare-pca --model runs/vq --data openmoji --output runs/pca
"""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vqlm.data_prep.collections.source_names import require_data
from vqlm.data_prep.settings import DATA_HELP, CollectionConfig
from vqlm.lm.settings import require_count
from vqlm.scripts.opening import load_for_tokenizer
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.training.errors import UserError
from vqlm.training.extras import install_hint
from vqlm.training.folders.folder_kinds import require_kind
from vqlm.training.folders.output_folder import require_output
from vqlm.training.folders.whole_files import write_json

if TYPE_CHECKING:
    import torch

COLUMNS = 12
SHARES_OF_BITS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Folder that vqlm train-vq finished.")
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument("--output", type=Path, required=True, help="Folder for comparison.png and comparison.json.")
    parser.add_argument("--num_components", type=int, default=768, help="The most components that PCA may use.")
    parser.add_argument("--max_pictures", type=int, default=200_000, help="The most pictures that PCA learns from.")
    parser.add_class_arguments(CollectionConfig)
    settings = parser.parse_args(arguments)
    require_kind(settings.model, "image tokenizer")
    require_data(settings.data)
    require_output(settings.output, can_resume=False)
    require_count("num_components", settings.num_components)
    require_count("max_pictures", settings.max_pictures)
    if find_spec("matplotlib") is None:
        raise UserError(f"matplotlib, which draws the figure, is missing; install it: {install_hint('demo')}.")

    import torch

    from vqlm.vq import load_image_tokenizer, to_pixel_values
    from vqlm.vq.metrics import psnr
    from vqlm.vq.pca import PCA

    model = load_image_tokenizer(settings.model)
    if model.config.network.spatial_dims != 2:
        shape = model.config.network.input_shape
        raise UserError(f"the comparison draws pictures; {settings.model} is a tokenizer of arrays of shape {shape}.")
    pictures = load_for_tokenizer(settings, model)
    train, held_out = to_pixel_values(pictures.train), to_pixel_values(pictures.held_out)
    torch.manual_seed(0)  # pca_lowrank projects at random
    pca = PCA.fit(train, settings.num_components)
    bits = math.ceil(model.config.tokens_per_image * math.log2(model.config.codebook_size))
    by_vq = torch.cat([model.decode_codes(model.encode(part)) for part in held_out.split(64)])
    vq_psnr = psnr(by_vq, held_out).mean().item()

    curve, by_pca = {}, held_out
    for budget in sorted({max(1, round(share * bits)) for share in SHARES_OF_BITS}):
        quantized = pca.with_bits(budget)
        reconstruction = quantized.decode(quantized.encode(held_out))
        curve[budget] = psnr(reconstruction, held_out).mean().item()
        by_pca = reconstruction if budget == bits else by_pca

    columns = torch.linspace(0, len(held_out) - 1, min(COLUMNS, len(held_out))).long()
    rows = [held_out[columns], by_vq[columns], by_pca[columns]]
    settings.output.mkdir(parents=True, exist_ok=True)
    figure = draw(pca.eigen_pictures(len(columns)), rows, curve, bits, vq_psnr)
    figure.savefig(settings.output / "comparison.png", dpi=120)
    by_bits = {str(key): db for key, db in curve.items()}
    figures = {
        "bits_a_picture": bits,
        "vq_psnr_db": vq_psnr,
        "pca_psnr_db": by_bits,
    }
    write_json(settings.output / "comparison.json", figures)
    print(f"{bits} bits per picture, held out: VQ-VAE {vq_psnr:.2f} dB, PCA {curve[bits]:.2f} dB")
    for budget, db in curve.items():
        print(f"PCA at {budget} bits: {db:.2f} dB")


def draw(eigen_pictures: "torch.Tensor", rows: "list[torch.Tensor]", curve: dict, bits: int, vq_psnr: float):
    """A matplotlib figure: eigen-pictures and reconstructions on the left, the curve on the right."""
    from matplotlib.figure import Figure

    from vqlm.vq import picture_grid

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    pictures, plot = figure.subplots(1, 2, width_ratios=[2, 1])
    grid = picture_grid([eigen_pictures, *rows])
    pictures.imshow(grid, interpolation="nearest")
    height = grid.height / (1 + len(rows))
    names = ["eigen-pictures", "held out", "VQ-VAE", "PCA"]
    pictures.set_yticks([(row + 0.5) * height for row in range(len(names))], names)
    pictures.set_xticks([])
    pictures.set_title(f"{bits} bits per picture")
    plot.plot(*zip(*curve.items(), strict=True), marker="o", label="PCA")
    plot.plot([bits], [vq_psnr], marker="*", markersize=14, linestyle="", label="VQ-VAE")
    plot.set_xscale("log", base=2)
    plot.set_xticks(list(curve), [str(budget) for budget in curve], rotation=45)
    plot.set_xticks([], minor=True)
    plot.set(xlabel="bits per picture", ylabel="held-out PSNR, dB")
    plot.legend()
    return figure


if __name__ == "__main__":
    run_script(main)
