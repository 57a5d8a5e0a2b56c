"""Draws a series for each caption of an .npz and compares them with the real ones.

python examples/text_to_series.py --data appliances.npz --model runs/appliances/model --output drawn.png

The picture has one row per caption: real held-out series on the left, drawn ones on the right. The program prints how
often the nearest real training series has the right caption, for real held-out series, for their reconstructions and
for drawn ones, and how many drawn ones repeat the codes of a training series.
"""

import argparse
from collections import Counter

import numpy as np
import torch

from vqlm.data_prep import load_collection
from vqlm.lm import TextToImagePipeline

SHOWN = 4


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="The .npz that the model was trained on.")
    parser.add_argument("--model", required=True, help="Folder that train_lm.py finished.")
    parser.add_argument("--output", required=True, help="Picture to write.")
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args(arguments)

    pipeline = TextToImagePipeline.from_pretrained(settings.model)
    collection = load_collection(settings.data)
    train, train_captions = real(collection.rows("train"))
    held_out, captions = real(collection.rows("held_out"))
    generator = torch.Generator().manual_seed(settings.seed)
    output = pipeline(captions, generator=generator)  # one per held-out series, so that classes are equally frequent
    drawn = torch.stack(list(output.images))
    codes = pipeline.encode(held_out)
    reconstruction = torch.stack(list(pipeline.decode(pipeline.image_tokenizer.unflatten_codes(codes))))
    train_codes = {tuple(row) for row in pipeline.encode(train).tolist()}

    print(f"{len(train)} series trained on, {len(held_out)} held out, {len(set(captions))} captions")
    print(f"always the most common caption: {max(Counter(captions).values()) / len(captions):.1%}")
    for name, series in (("real, held out", held_out), ("reconstructed", reconstruction), ("drawn", drawn)):
        guesses = nearest(series, train, train_captions)
        print(f"{name}: {np.mean([guess == caption for guess, caption in zip(guesses, captions, strict=True)]):.1%}")
    repeated = [tuple(row) in train_codes for row in output.codes.flatten(1).tolist()]
    print(f"drawn with exactly the codes of a training series: {np.mean(repeated):.1%}")
    plot(settings.output, captions, held_out, drawn)


def real(rows) -> tuple[torch.Tensor, list[str]]:
    """Series (N, C, T) in [-1, 1] and their captions."""
    rows = list(rows)
    return torch.from_numpy(np.stack([row.image for row in rows])), [row.captions[0] for row in rows]


def nearest(series: torch.Tensor, known: torch.Tensor, captions: list[str]) -> list[str]:
    """The caption of the nearest known series for each of `series`."""
    distances = torch.cdist(series.flatten(1), known.flatten(1))
    return [captions[number] for number in distances.argmin(1)]


def plot(path: str, captions: list[str], held_out: torch.Tensor, drawn: torch.Tensor) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = sorted(set(captions))
    figure, axes = plt.subplots(len(kinds), 2 * SHOWN, figsize=(2 * 2 * SHOWN, 1.1 * len(kinds)), squeeze=False)
    for row, kind in zip(axes, kinds, strict=True):
        chosen = [number for number, caption in enumerate(captions) if caption == kind][:SHOWN]
        for place, (series, colour) in enumerate(((held_out, "black"), (drawn, "tab:blue"))):
            for axis, number in zip(row[place * SHOWN :], chosen, strict=False):  # there may be fewer
                axis.plot(series[number].T, color=colour, linewidth=0.8)
        for axis in row:
            axis.set(xticks=[], yticks=[], ylim=(-1.1, 1.1))
        row[0].set_ylabel(kind, rotation=0, ha="right", va="center")
    axes[0][0].set_title("real, held out", loc="left")
    axes[0][SHOWN].set_title("drawn", loc="left")
    figure.savefig(path, bbox_inches="tight", dpi=100)
    plt.close(figure)
    print(path)


if __name__ == "__main__":
    main()
