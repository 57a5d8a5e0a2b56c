"""The rows that a step learned from, which the sampler draws again."""

import itertools
from typing import Any

from torch.utils.data import DataLoader


def rows_of_batches(loader: DataLoader | None, epoch: int, start: int, stop: int) -> list[int]:
    """The rows of the batches from `start` to before `stop` of an epoch; none where they cannot be told.

    The sampler draws the epoch again, in the same order, which leaves the iteration that is under way as it is. It may
    be ahead already, since accelerate reads one batch early.
    """
    sampler = getattr(loader, "batch_sampler", None)
    if loader is None or sampler is None:
        return []
    loader.set_epoch(epoch)  # type: ignore[attr-defined]
    return _numbers(list(itertools.islice(sampler, max(0, start), stop)))


def _numbers(drawn: Any) -> list[int]:
    """The numbers in what a sampler drew: numbers of rows, objects with a `row`, or lists of these."""
    if isinstance(drawn, list | tuple) and not hasattr(drawn, "row"):
        return [number for part in drawn for number in _numbers(part)]
    row: Any = getattr(drawn, "row", drawn)
    return [int(row)]
