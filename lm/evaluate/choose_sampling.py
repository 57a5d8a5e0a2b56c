"""Sampling defaults chosen on held-out prompts: a small grid, judged by retrieval, within a time limit."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from vqlm.data_prep.prepared_set import PreparedSet
from vqlm.lm.evaluate.gallery import decode_flat, gallery
from vqlm.lm.evaluate.metrics import recall_at, retrieval_ranks
from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.lm.settings import SamplingConfig

GRID = tuple(
    SamplingConfig(guidance_scale=guidance, temperature=temperature, min_p=min_p)
    for guidance, temperature, min_p in (
        (2.0, 0.25, 0.05), (1.0, 1.0, 0.0), (2.0, 1.0, 0.05), (1.5, 0.25, 0.05), (3.0, 0.25, 0.05), (1.0, 0.5, 0.05),
        (3.0, 1.0, 0.1), (1.5, 0.7, 0.05),
    )
)  # fmt: skip
BLANK = 0.02  # standard deviation of the pixels of a picture, in [-1, 1], below which it shows nothing


def choose_sampling(
    pipeline: TextToImagePipeline,
    prepared: PreparedSet,
    seconds: float = 60.0,
    prompts: int = 48,
    grid: Sequence[SamplingConfig] = GRID,
    seed: int = 0,
) -> tuple[SamplingConfig, list[dict[str, Any]]]:
    """The settings of `grid` that draw held-out prompts best, and the table that they were chosen from.

    Best is the lowest mean log rank of the prompt's own picture among all of the collection, of settings that draw no
    more blank pictures than the prompts' own pictures are. Settings are tried in order until `seconds` are over, at
    least the first.

    Args:
        pipeline: the finished model; its settings stay as they are.
        prepared: the set that it was trained on.
        seconds: when no further settings are tried.
        prompts: held-out prompts, evenly over all held-out splits.
        grid: settings to try.
        seed: of the pictures.
    """
    start = time.monotonic()
    rows = [prepared.pictured(split, -(-prompts // len(prepared.held_out))) for split in prepared.held_out]
    captions = [texts[0] for part in rows for texts in part["captions"]]
    targets = decode_flat(pipeline, torch.cat([prepared.codes_of(part) for part in rows]))
    pictures = list(gallery(pipeline, prepared))
    allowed, table = blank_share(targets), []
    for sampling in grid:
        if table and time.monotonic() - start > seconds:
            break
        drawn = decode_flat(pipeline, pipeline(captions, generator=seed, **vars(sampling)).codes.flatten(1))
        ranks = retrieval_ranks(drawn, targets, pictures)
        table.append(
            vars(sampling)
            | {"r1": recall_at(ranks, 1), "r10": recall_at(ranks, 10), "mean_log_rank": ranks.log().mean().item()}
            | {"blank": blank_share(drawn)}
        )
    sound = [number for number, line in enumerate(table) if line["blank"] <= allowed + 1 / len(captions)]
    best = min(sound or range(len(table)), key=lambda number: table[number]["mean_log_rank"])
    return grid[best], table


def blank_share(pictures: Float[Tensor, "b c h w"]) -> float:
    """Share of the pictures that show nothing, or hold values that are not finite."""
    spread = pictures.flatten(1).std(1)
    return (~(spread >= BLANK)).double().mean().item()
