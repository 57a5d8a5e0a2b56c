"""Figures of what a pipeline does besides drawing one picture per prompt: describe, choose, continue."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vqlm.data_prep.prepared_set import PreparedSet, pictures_of
from vqlm.lm.decoding.likelihood import log_likelihoods_of_captions
from vqlm.lm.evaluate.gallery import MAX_PROMPTS, decode_flat, gallery
from vqlm.lm.evaluate.metrics import recall_at, retrieval_ranks
from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.lm.settings import SamplingConfig
from vqlm.training.watching.progress import Progress
from vqlm.vq import to_pixel_values

CAPTIONS = 100  # the right one and 99 others
RERANK = 8
# How the pictures are drawn from which one is chosen: from the model's distribution, and guided. Near a greedy default
# several pictures of a prompt would be the same.
DRAWS = {"plain": SamplingConfig(), "guided": SamplingConfig(guidance_scale=2.0, temperature=1.5, min_p=0.05)}
ALL = "all held out"


@dataclass
class _HeldOut:
    """codes: (B, n); originals: (B, C, H, W)."""

    captions: list[str]
    codes: Tensor
    originals: Tensor


def evaluate_other_tasks(pipeline: TextToImagePipeline, prepared: PreparedSet, seed: int = 0) -> dict[str, Any]:
    """For every held-out split:

    completed_better: share of the pictures whose lower half is closer to the original, in pixels, when the model
    continues the upper half than when it draws without it, neither with a prompt.
    Of a model that captions, also caption_r1: how often the right caption is the likeliest of 100, the others being
    other held-out captions; and reranked: for each of `DRAWS` the retrieval (`lm.evaluate.metrics`) of one draw, the
    mean of 8, and of the one of these that `rerank` keeps. "all held out" has the means over the pictures of all sets.
    """
    sets = {split: _held_out(prepared, split) for split in prepared.held_out}
    pool = sorted({caption for part in sets.values() for caption in part.captions})
    progress, figures = Progress("evaluate"), {}
    for number, (split, part) in enumerate(sets.items()):
        progress.show(number / len(sets), 0.0, f"{split}, other tasks")
        figures[split] = {"completed_better": completed_better(pipeline, part.originals, seed).double().mean().item()}
        if pipeline.can_caption:
            figures[split]["caption_r1"] = _caption_r1(pipeline, part, pool, seed)
            figures[split]["reranked"] = {
                name: _reranked(pipeline, prepared, part, sampling, seed) for name, sampling in DRAWS.items()
            }
    progress.close()
    if len(sets) > 1:
        figures[ALL] = _mean(list(figures.values()), [len(part.captions) for part in sets.values()])
    return figures


def _mean(figures: list[dict[str, Any]], counts: list[int]) -> dict[str, Any]:
    """The mean of figures that are numbers, or dicts of numbers, weighted by `counts` pictures each."""
    mean = {}
    for name, first in figures[0].items():
        values = [part[name] for part in figures]
        if isinstance(first, dict):
            mean[name] = _mean(values, counts)
        else:
            mean[name] = sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)
    return mean


def completed_better(
    pipeline: TextToImagePipeline, originals: Float[Tensor, "b c h w"], seed: int = 0
) -> Float[Tensor, " b"]:
    """1 where the continued lower half is closer to the original than one drawn without the upper half, else 0."""
    plain: dict[str, Any] = {"guidance_scale": 1.0}
    count, height = len(originals), originals.shape[2]
    continued = pipeline.complete(originals, generator=torch.Generator().manual_seed(seed), **plain).codes
    drawn = pipeline([None] * count, generator=torch.Generator().manual_seed(seed), **plain).codes
    errors = [
        (decode_flat(pipeline, codes.flatten(1)) - originals)[:, :, height // 2 :].square().mean((1, 2, 3))
        for codes in (continued, drawn)
    ]
    return (errors[0] < errors[1]).float()


def other_tasks_markdown(figures: dict[str, Any]) -> list[str]:
    """The figures as lines of the report."""
    names = {
        "completed_better": "lower half closer to the original when continued from the upper",
        "caption_r1": f"right caption likeliest of {CAPTIONS}",
    }
    lines = ["", "## Other tasks", "", f"| figure | {' | '.join(figures)} |", "|---" * (len(figures) + 1) + "|"]
    for name, title in names.items():
        if all(name in split_figures for split_figures in figures.values()):
            lines.append(
                f"| {title} | "
                + " | ".join(f"{100 * split_figures[name]:.1f}%" for split_figures in figures.values())
                + " |"
            )
    if not all("reranked" in split_figures for split_figures in figures.values()):
        return lines
    for draws, sampling in DRAWS.items():
        settings = f"guidance {sampling.guidance_scale:g}, temperature {sampling.temperature:g}"
        for name, title in {"one": f"one draw, the mean of {RERANK}", "kept": "the one that rerank keeps"}.items():
            retrieval = [split_figures["reranked"][draws][name] for split_figures in figures.values()]
            cells = [
                f"{100 * split_figures['r1']:.1f}% / {100 * split_figures['r10']:.1f}%" for split_figures in retrieval
            ]
            lines.append(f"| R@1 / R@10, {settings}, {title} | " + " | ".join(cells) + " |")
    return lines


def _held_out(prepared: PreparedSet, split: str) -> _HeldOut:
    rows = prepared.pictured(split, MAX_PROMPTS)
    captions = [captions[0] for captions in rows["captions"]]
    return _HeldOut(captions, prepared.codes_of(rows), to_pixel_values(pictures_of(rows)))


def _caption_r1(pipeline: TextToImagePipeline, part: _HeldOut, pool: list[str], seed: int) -> float:
    draw = torch.Generator().manual_seed(seed)
    known = dict(zip(pool, pipeline.vocabulary.encode_text(pool), strict=True))
    hits = 0
    for caption, codes in zip(part.captions, part.codes, strict=True):
        order = [pool[number] for number in torch.randperm(len(pool), generator=draw).tolist()]
        others = [text for text in order if text != caption][: CAPTIONS - 1]
        ids = [known[text][: pipeline.max_caption_tokens] for text in (caption, *others)]
        scores = log_likelihoods_of_captions(pipeline.model, pipeline.vocabulary, codes, ids)
        hits += int(scores.argmax() == 0)
    return hits / len(part.captions)


def _reranked(
    pipeline: TextToImagePipeline, prepared: PreparedSet, part: _HeldOut, sampling: SamplingConfig, seed: int
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    drawn = pipeline(part.captions, num_images_per_prompt=RERANK, generator=generator, **vars(sampling)).codes.flatten(
        1
    )
    best = pipeline.best_of(drawn.view(len(part.captions), RERANK, -1), part.captions)
    targets = decode_flat(pipeline, part.codes)
    pictures = [decode_flat(pipeline, codes) for codes in (drawn, best)]
    wanted = [targets.repeat_interleave(RERANK, 0), targets]
    ranks = retrieval_ranks(torch.cat(pictures), torch.cat(wanted), gallery(pipeline, prepared))
    return {
        name: {"r1": recall_at(part_ranks, 1), "r10": recall_at(part_ranks, 10)}
        for name, part_ranks in zip(("one", "kept"), ranks.split([len(drawn), len(best)]), strict=True)
    }
