"""Sampling defaults chosen on held-out prompts: a small grid, judged by retrieval, within a time limit."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vqlm.data_prep.prepared_set import PreparedSet
from vqlm.lm.evaluate.gallery import decode_flat, gallery
from vqlm.lm.evaluate.metrics import recall_at, retrieval_ranks
from vqlm.lm.model_folder.finished_model import weights_checksum
from vqlm.lm.model_folder.settings import save_sampling
from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.lm.prompts import without_word_warnings
from vqlm.lm.settings import SamplingConfig
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json, write_json
from vqlm.training.watching.progress import Progress

GRID = tuple(
    SamplingConfig(guidance_scale=guidance, temperature=temperature, min_p=min_p)
    for guidance, temperature, min_p in (
        (2.0, 0.25, 0.05), (1.0, 1.0, 0.0), (2.0, 1.0, 0.05), (1.5, 0.25, 0.05), (3.0, 0.25, 0.05), (1.0, 0.5, 0.05),
        (3.0, 1.0, 0.1), (1.5, 0.7, 0.05),
    )
)  # fmt: skip
PROMPTS = 48
MAX_GALLERY = 2000  # of each split; of more pictures evenly spaced ones, so that ranking takes seconds
BLANK = 0.02  # standard deviation of the pixels of a picture, in [-1, 1], below which it shows nothing
TABLE_FILE = "sampling.json"


@dataclass(frozen=True)
class SamplingChoice:
    """The settings that were chosen, and what they were chosen from.

    Args:
        sampling: the best of the table.
        table: one line per setting that was tried: its values, `r1`, `r10`, `mean_log_rank`, and `blank`, the share of
            blank or broken pictures.
        prompts: held-out prompts, of each of which every setting drew one picture.
        pictures: pictures of the collection among which each drawing's own was looked for.
    """

    sampling: SamplingConfig
    table: list[dict[str, Any]]
    prompts: int
    pictures: int

    @property
    def line(self) -> dict[str, Any]:
        """That of the chosen settings."""
        return next(line for line in self.table if vars(self.sampling).items() <= line.items())

    @property
    def plain(self) -> dict[str, Any] | None:
        """That of the model's own distribution, where it was tried."""
        return next((line for line in self.table if vars(SamplingConfig()).items() <= line.items()), None)


@torch.no_grad()
@without_word_warnings()
def choose_sampling(
    pipeline: TextToImagePipeline,
    prepared: PreparedSet,
    seconds: float = 60.0,
    prompts: int = PROMPTS,
    grid: Sequence[SamplingConfig] = GRID,
    seed: int = 0,
) -> SamplingChoice:
    """The settings of `grid` that draw held-out prompts best.

    Best is the lowest mean log rank of the prompt's own picture among those of the collection, of settings that draw
    no more blank pictures than the prompts' own pictures are. Settings are tried in order as long as the next one ends
    within `seconds`, at least the first; ranking comes on top.

    Args:
        pipeline: the finished model; its settings stay as they are.
        prepared: the set that it was trained on.
        seconds: for drawing.
        prompts: held-out prompts, evenly over all held-out splits.
        grid: settings to try.
        seed: of the pictures.

    Raises:
        UserError: if no held-out row has its picture.
    """
    start, progress = time.monotonic(), Progress("sampling")
    rows = [prepared.pictured(split, -(-prompts // len(prepared.held_out))) for split in prepared.held_out]
    captions = [texts[0] for part in rows for texts in part["captions"]]
    if not captions:
        raise UserError(f"{prepared.folder} holds no held-out pictures, on which sampling could be chosen.")
    targets = decode_flat(pipeline, torch.cat([prepared.codes_of(part) for part in rows]))
    drawn: list[Tensor] = []
    while len(drawn) < len(grid):
        elapsed = time.monotonic() - start
        if drawn and elapsed * (1 + 1 / len(drawn)) > seconds:
            break
        progress.tick(f"{len(drawn)} of {len(grid)} settings tried")
        codes = pipeline(captions, generator=seed, **vars(grid[len(drawn)])).codes
        drawn.append(decode_flat(pipeline, codes.flatten(1)))
    pictures = 0

    def counted():
        nonlocal pictures
        for part in gallery(pipeline, prepared, MAX_GALLERY):
            pictures += len(part)
            yield part

    ranks = retrieval_ranks(torch.cat(drawn), targets.repeat(len(drawn), 1, 1, 1), counted())
    progress.close()
    table = [
        vars(sampling)
        | {"r1": recall_at(part, 1), "r10": recall_at(part, 10), "mean_log_rank": part.log().mean().item()}
        | {"blank": blank_share(drawings)}
        for sampling, part, drawings in zip(grid, ranks.split(len(captions)), drawn, strict=False)
    ]
    allowed = blank_share(targets) + 1 / len(captions)
    sound = [number for number, line in enumerate(table) if line["blank"] <= allowed]
    best = min(sound or range(len(table)), key=lambda number: table[number]["mean_log_rank"])
    return SamplingChoice(grid[best], table, len(captions), pictures)


def blank_share(pictures: Float[Tensor, "b c h w"]) -> float:
    """Share of the pictures that show nothing, or hold values that are not finite."""
    spread = pictures.flatten(1).std(1)
    return (~(spread >= BLANK)).double().mean().item()


def save_choice(choice: SamplingChoice, folder: Path) -> Path:
    """Make the chosen settings the defaults of the model in `folder`. Returns the file of the table, which is written
    last: where it stands, the choice is made."""
    save_sampling(folder, choice.sampling)
    path = folder / "run" / TABLE_FILE
    write_json(path, {"weights": weights_checksum(folder)} | vars(choice) | {"sampling": vars(choice.sampling)})
    return path


def load_choice(folder: Path) -> SamplingChoice | None:
    """What `save_choice` wrote for the weights that `folder` holds; None where nothing was chosen for these."""
    path = folder / "run" / TABLE_FILE
    if not path.exists():
        return None
    content = read_json(path)
    if content.pop("weights") != weights_checksum(folder):
        return None
    return SamplingChoice(**content | {"sampling": SamplingConfig(**content["sampling"])})
