"""Does a training that starts from models/emoji draw better than one from nothing, on icons that it has not seen?

    python benchmarks/from_base.py --package noto-v1 --pictures 500 2000 --minutes 10

The icons of one of npm's `@iconify-json` packages, drawn at 64x64 with their names as captions; `HELD_OUT` of them are
never trained on, the same for every number of pictures. Each training is one `vqlm train`. Prints a table, and writes
the drawings of the same held-out prompts by both as `NUMBER.png`. On a busy machine `--vq-steps` and `--lm-steps` give
both what an idle one does in the minutes.
"""

import argparse
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vqlm import TextToImagePipeline
from vqlm.data_prep.pictures.sheets import sample_sheet
from vqlm.data_prep.pictures.svg import draw_svg
from vqlm.data_prep.splits import hash_share
from vqlm.training.folders.whole_files import read_json, write_json
from vqlm.vq import to_pixel_values

SIDE = 64
HELD_OUT = 160
SHOWN = 12
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
from emoji_styles import Package, read_package, svg_of  # noqa: E402


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", default="noto-v1", help="One of npm's @iconify-json packages.")
    parser.add_argument("--pictures", type=int, nargs="+", default=[500, 2000], help="To train on.")
    parser.add_argument("--minutes", type=float, default=10, help="Of each training.")
    parser.add_argument("--vq-steps", type=int, help="Of stage one, instead of what the minutes allow.")
    parser.add_argument("--lm-steps", type=int, nargs=2, help="Of stage two, from nothing and from the base.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, default=ROOT / "models" / "emoji")
    parser.add_argument("--output", type=Path, default=Path("outputs/from_base"))
    options = parser.parse_args(arguments)
    icons = read_package(Package(options.package), options.output)["icons.json"]
    figures = []
    for number in options.pictures:
        data = options.output / f"{number}-pictures"
        write_pictures(icons, number, data)
        for start in (None, options.base):
            figures.append(train(data, number, start, options))
            print_table(figures)
        sheet(data, number, options)
    write_json(options.output / f"from_base-{options.package}-{options.seed}.json", figures)
    return figures


def write_pictures(icons: dict, number: int, folder: Path) -> None:
    """`train` with `number` pictures, and `test`; which ones is decided by a hash of their names."""
    names = sorted(icons["icons"], key=hash_share)
    for split, chosen in (("test", names[:HELD_OUT]), ("train", names[HELD_OUT : HELD_OUT + number])):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for name in chosen:
            path = folder / split / f"{name}.png"
            if not path.exists():
                drawn = io.BytesIO()
                draw_svg(svg_of(name, icons), SIDE, "white").save(drawn, "PNG")
                path.write_bytes(drawn.getvalue())


def output_of(data: Path, start: Path | None, seed: int) -> Path:
    return data.parent / f"{data.name}-{'nothing' if start is None else 'base'}-{seed}"


def train(data: Path, number: int, start: Path | None, options: argparse.Namespace) -> dict:
    """Figures of one `vqlm train`, which continues if it was interrupted."""
    output = output_of(data, start, options.seed)
    words = ["train", data, "--minutes", options.minutes, "--image-size", SIDE, "--captions-from", "names"]
    words += ["--output", output, "--lm.seed", options.seed]
    words += ["--start", start or "none"]
    if start is None:
        words += ["--vq.seed", options.seed]
        words += ["--vq.max-steps", options.vq_steps] if options.vq_steps else []
    if options.lm_steps:
        words += ["--lm.max-steps", options.lm_steps[start is not None]]
    subprocess.run([sys.executable, "-m", "vqlm", *map(str, words)], check=True)
    report = read_json(output / "report.json")
    (split,) = report["retrieval"]
    scale = f"{report['default_sampling']['guidance_scale']:g}"
    return {
        "pictures": number,
        "start": "nothing" if start is None else start.name,
        "psnr": report["held_out_psnr_db"],
        "nll": report["held_out_image_nll"][split],
        **report["retrieval"][split][scale],
        "trained": report["trained_prompts"]["r10"],
        "chance": 10 / sum(report["pictures"].values()),
    }


def print_table(figures: list[dict]) -> None:
    print("\n| pictures | start | PSNR, dB | NLL | R@1 | R@10 | chance | R@10 of trained prompts |")
    print("|---|---|---|---|---|---|---|---|")
    for row in figures:
        shares = " | ".join(f"{row[name]:.1%}" for name in ("r1", "r10", "chance", "trained"))
        print(f"| {row['pictures']:,} | {row['start']} | {row['psnr']:.2f} | {row['nll']:.3f} | {shares} |", flush=True)


def sheet(data: Path, number: int, options: argparse.Namespace) -> None:
    """Held-out prompts: the original, drawn from nothing, drawn from the base."""
    files = sorted((data / "test").glob("*.png"))
    files = files[:: max(1, len(files) // SHOWN)][:SHOWN]
    prompts = [path.stem.replace("-", " ") for path in files]
    columns = [torch.cat([_pixel_values(path) for path in files])]
    for start in (None, options.base):
        pipeline = TextToImagePipeline.from_pretrained(output_of(data, start, options.seed) / "model", "cpu")
        images = pipeline(prompts, generator=torch.Generator().manual_seed(0)).images
        columns.append(torch.cat([_pixel_values(image) for image in images]))
    cells = [(prompt, list(pictures)) for prompt, pictures in zip(prompts, zip(*columns, strict=True), strict=True)]
    sample_sheet(cells, columns=4).save(options.output / f"{number}.png")


def _pixel_values(picture: Path | Image.Image) -> torch.Tensor:
    image = Image.open(picture) if isinstance(picture, Path) else picture
    return to_pixel_values(torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)[None])


if __name__ == "__main__":
    main()
