"""How well does a model of four styles of emoji draw what it has not seen in a style, and does it keep to the style?

    python benchmarks/emoji_styles.py --model outputs/base/model --data outputs/base/data

For a model that was trained on the collection of examples/emoji_styles.py, and a set prepared for it. One picture is
drawn for each held-out prompt, with the settings that the model was saved with, and compared by pixel distance with the
reconstructions of all pictures in all styles. The three held-out sets are never averaged. A sheet of each is left
beside the figures.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float, Int
from measure import Report, Spread, choose, in_turns, parser
from torch import Tensor

from vqlm.data_prep import PreparedSet
from vqlm.data_prep.prepared_set import pictures_of, spread
from vqlm.lm import TextToImagePipeline
from vqlm.lm.evaluate.gallery import PART, decode_flat
from vqlm.lm.evaluate.metrics import recall_at
from vqlm.lm.evaluate.report import require_same_tokenizers
from vqlm.training.errors import UserError
from vqlm.vq import to_pixel_values
from vqlm.vq.metrics import psnr
from vqlm.vq.pixels import picture_grid

STYLE = re.compile(r", (\w+) style$")
ALL = 10**9
SHOWN = 12  # pictures of each held-out set on its sheet


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="folder of the finished model")
    options.add_argument("--data", type=Path, required=True, help="folder of the prepared set")
    options.add_argument("--seed", type=int, default=0, help="decides the pictures that are drawn")
    options = options.parse_args(arguments)
    most, rounds = choose(options, (ALL, 9), (50, 5), (3, 1))
    pipeline, prepared = TextToImagePipeline.from_pretrained(options.model), PreparedSet.load(options.data)
    require_same_tokenizers(pipeline, prepared)
    captions, originals, targets, qualities = held_out_pictures(pipeline, prepared, most)
    prompts = [caption for own in captions.values() for caption in own]
    styles = styles_of(prompts)
    report = Report("emoji_styles", __doc__, options)

    table = report.table("Held-out pictures, reconstructed", ["style", "pictures", "PSNR, dB"])
    for style in sorted(set(styles)):
        own = qualities[torch.tensor([other == style for other in styles])]
        table.row(style, len(own), own.mean().item())
    table.row("all", len(qualities), qualities.mean().item())

    codes = pipeline(prompts, generator=torch.Generator().manual_seed(options.seed)).codes
    drawn = decode_flat(pipeline, codes.flatten(1))
    options.output.mkdir(parents=True, exist_ok=True)
    start = 0
    for split, texts in captions.items():  # original above, drawn below
        shown = [start + number for number in spread(len(texts), SHOWN)]
        picture_grid([originals[shown], drawn[shown]]).save(options.output / f"{split}.png")
        start += len(texts)
    ranks, nearest = ranks_and_nearest(drawn, targets, gallery(pipeline, prepared))
    gallery_styles = styles_of(own[0] for rows in prepared.rows.values() for own in rows["captions"])
    is_in_style = torch.tensor(
        [gallery_styles[number] == style for number, style in zip(nearest.tolist(), styles, strict=True)]
    )
    title = f"Held-out prompts, drawn, among {len(gallery_styles):,} pictures"
    table = report.table(title, ["set", "pictures", "R@1, %", "R@10, %", "R@10 by chance, %", "nearest in style, %"])
    sizes = [len(own) for own in captions.values()]
    for split, own, in_style in zip(captions, ranks.split(sizes), is_in_style.split(sizes), strict=True):
        share = in_style.double().mean().item()
        chance = 100 * min(1, 10 / len(gallery_styles))
        table.row(split, len(own), 100 * recall_at(own, 1), 100 * recall_at(own, 10), chance, 100 * share)
    table.row("all prompts", len(prompts), None, None, None, 100 * is_in_style.double().mean().item())

    seconds = in_turns({"one": lambda: pipeline(prompts[0])}, rounds)["one"]
    table = report.table("After loading", ["drawn", "s per picture"])
    table.row("one picture by itself", Spread.of(seconds))
    return report.save()


def held_out_pictures(
    pipeline: TextToImagePipeline, prepared: PreparedSet, most: int
) -> tuple[dict[str, list[str]], Float[Tensor, "n c h w"], Float[Tensor, "n c h w"], Float[Tensor, " n"]]:
    """Captions of each held-out set; all its pictures, their reconstructions, and the PSNR of each."""
    captions, originals, reconstructions, qualities = {}, [], [], []
    for split in prepared.held_out:
        rows = prepared.pictured(split, most)
        captions[split] = [own[0] for own in rows["captions"]]
        originals.append(pipeline.image_tokenizer.fit_size(to_pixel_values(pictures_of(rows))))
        reconstructions.append(decode_flat(pipeline, prepared.codes_of(rows)))
        qualities.append(psnr(reconstructions[-1], originals[-1]))
    return captions, torch.cat(originals), torch.cat(reconstructions), torch.cat(qualities)


def styles_of(captions: Iterable[str]) -> list[str]:
    """The style that each caption ends with. Raises UserError for one without."""
    styles = []
    for caption in captions:
        found = STYLE.search(caption)
        if found is None:
            raise UserError(
                f"{caption!r} names no style; prepare the collection of examples/emoji_styles.py, whose captions end "
                'as in "fire engine, noto style".'
            )
        styles.append(found[1])
    return styles


def gallery(pipeline: TextToImagePipeline, prepared: PreparedSet) -> Iterator[Float[Tensor, "n c h w"]]:
    """Reconstructions of all pictures, in parts, split by split."""
    for rows in prepared.rows.values():
        for part in prepared.code_parts(rows, PART):
            yield decode_flat(pipeline, part)


def ranks_and_nearest(
    drawn: Float[Tensor, "b c h w"], targets: Float[Tensor, "b c h w"], gallery: Iterable[Float[Tensor, "n c h w"]]
) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
    """The rank (1 is best) of each target among the gallery by distance to what was drawn, and the number of the
    nearest picture of the gallery. Pictures equal to the target share its rank."""
    queries = drawn.flatten(1).double()
    own = (queries - targets.flatten(1).double()).square().sum(1)
    closer = torch.zeros(len(drawn), dtype=torch.int64)
    least, nearest = torch.full_like(own, torch.inf), torch.zeros_like(closer)
    start = 0
    for part in gallery:
        pictures = part.flatten(1).double()
        distances = queries.square().sum(1, keepdim=True) - 2 * queries @ pictures.T + pictures.square().sum(1)
        closer += (distances < own[:, None] * (1 - 1e-9) - 1e-9).sum(1)
        smallest, place = distances.min(1)
        nearest = torch.where(smallest < least, start + place, nearest)
        least = torch.minimum(smallest, least)
        start += len(part)
    return 1 + closer, nearest


if __name__ == "__main__":
    main()
