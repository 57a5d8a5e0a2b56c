"""How different are eight pictures of one prompt, and how well do they fit it, at several temperatures?

    python benchmarks/variety.py --model outputs/demo/model --data outputs/demo/data

Distance: root mean square of the difference of two pictures of one prompt, over all pairs, pixels in [-1, 1]; the
remark has that of reconstructions of different prompts. Alike: share of those pairs with the same codes. R@k: share of
all pictures for which the prompt's own reconstruction is among the k nearest of the collection. Each is the median, the
least and the most of the seeds.
"""

import itertools
from pathlib import Path

import torch
from measure import Report, Spread, choose, parser
from torch import Tensor

from vqlm.data_prep import PreparedSet
from vqlm.data_prep.prepared_set import spread
from vqlm.lm import SamplingConfig, TextToImagePipeline
from vqlm.lm.evaluate.gallery import decode_flat, gallery
from vqlm.lm.evaluate.metrics import recall_at, retrieval_ranks
from vqlm.lm.evaluate.report import require_same_tokenizers


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="folder that train_lm.py finished")
    options.add_argument("--data", type=Path, required=True, help="folder that prepare_data.py wrote")
    options.add_argument("--guidance", type=float, nargs="+", default=[2.0], help="guidance scales")
    options.add_argument("--temperatures", type=float, nargs="+", default=[0.25, 0.5, 0.7, 1.0], help="temperatures")
    options.add_argument(
        "--trained", action="store_true", help="prompts that were trained on, instead of held-out ones"
    )
    options.add_argument("--min-p", type=float, nargs="+", help="by default that of the model's folder")
    options = options.parse_args(arguments)
    prompts, each, seeds = choose(options, (48, 8, 3), (48, 8, 2), (2, 2, 1))
    pipeline, prepared = TextToImagePipeline.from_pretrained(options.model, "cpu"), PreparedSet.load(options.data)
    require_same_tokenizers(pipeline, prepared)
    splits = {split: rows for split, rows in prepared.rows.items() if (split in prepared.held_out) != options.trained}
    rows = [part.select(spread(len(part), -(-prompts // len(splits)))) for part in splits.values()]
    captions: list[str | None] = [texts[0] for part in rows for texts in part["captions"]]
    targets = decode_flat(pipeline, torch.cat([prepared.codes_of(part) for part in rows]))
    pictures = list(gallery(pipeline, prepared))

    report = Report("variety", __doc__, options)
    kind = "trained" if options.trained else "held-out"
    title = f"{each} pictures of each of {len(captions)} {kind} prompts, {seeds} seeds"
    table = report.table(title, ["guidance", "min_p", "temperature", "distance", "alike", "R@1", "R@10"])
    settings = itertools.product(options.guidance, options.min_p or [pipeline.sampling.min_p], options.temperatures)
    for guidance, min_p, temperature in settings:
        sampling = SamplingConfig(guidance_scale=guidance, temperature=temperature, min_p=min_p)
        figures = [
            figures_of(pipeline, captions, each, sampling, seed, targets, pictures) for seed in range(seeds)
        ]  # (seeds, 4)
        table.row(guidance, min_p, temperature, *(Spread.of(values) for values in zip(*figures, strict=True)))
    report.remark(f"Reconstructions of different prompts have a distance of {distance_of(targets):.3f}.")
    return report.save()


def figures_of(
    pipeline: TextToImagePipeline,
    captions: list[str | None],
    each: int,
    sampling: SamplingConfig,
    seed: int,
    targets: Tensor,
    pictures: list[Tensor],
) -> tuple[float, float, float, float]:
    """Distance, share of pairs alike, R@1, R@10."""
    codes = pipeline(captions, num_images_per_prompt=each, generator=seed, **vars(sampling)).codes.flatten(1)
    drawn = decode_flat(pipeline, codes)
    ranks = retrieval_ranks(drawn, targets.repeat_interleave(each, 0), pictures)
    of_prompts = list(zip(drawn.split(each), codes.split(each), strict=True))
    distance = sum(distance_of(part) for part, _ in of_prompts) / len(of_prompts)
    alike = sum(alike_share(part) for _, part in of_prompts) / len(of_prompts)
    return distance, alike, recall_at(ranks, 1), recall_at(ranks, 10)


def distance_of(pictures: Tensor) -> float:
    """Mean over all pairs of the root mean square of their difference."""
    flat = pictures.flatten(1)
    return (torch.pdist(flat) / flat.shape[1] ** 0.5).mean().item()


def alike_share(codes: Tensor) -> float:
    """Share of the pairs of rows that are equal."""
    pairs = list(itertools.combinations(codes, 2))
    return sum(torch.equal(one, other) for one, other in pairs) / len(pairs)


if __name__ == "__main__":
    main()
