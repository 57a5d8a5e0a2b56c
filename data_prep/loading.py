"""Rows to arrays, read and decoded by processes of their own, ahead of whoever uses them."""

import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from vqlm.data_prep.collection import TRAIN, Collection
from vqlm.data_prep.picture_files import UnreadablePicture, decode_picture, make_views
from vqlm.data_prep.rows import Row, Shard, Unusable
from vqlm.data_prep.settings import CollectionConfig, ViewConfig
from vqlm.data_prep.skipped import SkippedRows
from vqlm.training.errors import UserError

BATCH = 128
MAX_WORKERS = 8
# So many held-out pictures tell what a tokenizer is worth; more only cost time.
MAX_HELD_OUT = 4096

Made = TypeVar("Made")
PictureTensor = UInt8[Tensor, "_ c *shape"] | Float[Tensor, "_ c *shape"]


@dataclass
class DecodedBatch:
    """rows: those that could be decoded, their undecoded pictures left out; values: (B, views, C, *shape), uint8 or
    fp32 in [-1, 1]; skipped: the rest."""

    rows: list[Row]
    values: Tensor
    skipped: list[Unusable]


@dataclass
class LoadedPictures:
    """train and held_out: (N, C, *shape) in memory; skipped: what could not be used."""

    train: PictureTensor
    held_out: PictureTensor
    skipped: SkippedRows


def load_pictures(
    collection: Collection, input_shape: Sequence[int], max_pictures: int | None = None
) -> LoadedPictures:
    """The pictures of a collection in memory, (N, 3, H, W) uint8 for an `input_shape` of (H, W), or its arrays.

    At most `max_pictures` to train on, from shards in random order, and what is held out of the same shards.
    Raises UserError for a shape that is not theirs, or if more rows are unusable than `max_skipped` allows.
    """
    require_shape(collection, input_shape)
    shards = list(collection.shards)
    if max_pictures is not None:
        random.Random(0).shuffle(shards)
    parts: dict[bool, list[Tensor]] = {True: [], False: []}
    counts = {True: 0, False: 0}
    limits = {True: max_pictures or float("inf"), False: MAX_HELD_OUT if max_pictures else float("inf")}
    skipped = SkippedRows(collection.config.max_skipped)
    decode = partial(decode_rows, input_shape=input_shape, config=collection.config, views=ViewConfig())
    for _, batch, _ in mapped_shards(shards, decode):
        skipped.add(len(batch.rows) + len(batch.skipped), batch.skipped)
        if not batch.rows:
            continue
        is_train = torch.tensor([collection.split_of(row.key) == TRAIN for row in batch.rows])
        for part in (True, False):
            chosen = batch.values[is_train == part, 0]
            chosen = chosen[: int(min(limits[part] - counts[part], len(chosen)))]
            counts[part] += len(chosen)
            parts[part].append(chosen)
        if counts[True] >= limits[True]:
            break
    skipped.require_few()
    if not counts[True] or not counts[False]:
        raise UserError(
            f"{counts[True]} pictures to train on and {counts[False]} held out could be read; at least 1 each is needed"
        )
    return LoadedPictures(torch.cat(parts[True]), torch.cat(parts[False]), skipped)


def require_shape(collection: Collection, input_shape: Sequence[int]) -> None:
    """Raises UserError if a network of `input_shape` does not fit the collection."""
    if collection.array_shape is None:
        if len(input_shape) != len(("height", "width")):
            raise UserError(f"Pictures need a network.input_shape of height and width, found {list(input_shape)}.")
    elif tuple(collection.array_shape[1:]) != tuple(input_shape):
        shape = list(collection.array_shape[1:])
        raise UserError(
            f"The arrays are of shape {shape} (channels not counted) and network.input_shape is "
            f"{list(input_shape)}; set network.input_shape to {shape}."
        )


def mapped_shards(
    shards: Sequence[Shard], function: Callable[[list[Row | Unusable]], Made], num_workers: int | None = None
) -> Iterator[tuple[int, Made, bool]]:
    """(number of the shard, what `function` makes of at most `BATCH` of its rows, False), and at a shard's end (number,
    what it makes of no rows, True); each shard's come in order.

    Every worker process reads a shard of its own, so that batches of several shards come in turns. They are processes
    because Python's lock would otherwise stop the caller's network at every step of theirs. `num_workers` is by
    default one fewer than there are cores; 0 works in this process.
    """
    if num_workers is None:
        num_workers = max(1, min(MAX_WORKERS, len(shards), (os.cpu_count() or 1) - 1))
    if num_workers:
        # A tokenizer that has used threads warns at every fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return iter(DataLoader(_MappedShards(shards, function), batch_size=None, num_workers=num_workers))


class _MappedShards(IterableDataset):
    def __init__(self, shards: Sequence[Shard], function: Callable[[list[Row | Unusable]], Any]):
        self.shards, self.function = shards, function

    def __iter__(self) -> Iterator[tuple[int, Any, bool]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, len(self.shards), step):
            rows = iter(self.shards[number].read())
            while chunk := list(itertools.islice(rows, BATCH)):
                yield number, self.function(chunk), False
            yield number, self.function([]), True


def decode_rows(
    chunk: Sequence[Row | Unusable], input_shape: Sequence[int], config: CollectionConfig, views: ViewConfig
) -> DecodedBatch:
    """One batch, in this thread."""
    rows, values, skipped = [], [], []
    for row in chunk:
        if isinstance(row, Unusable):
            skipped.append(row)
            continue
        if isinstance(row.image, np.ndarray):
            values.append(row.image[None])
        else:
            size = (input_shape[0], input_shape[1])
            try:
                picture = decode_picture(row.image, size, config.background, config.max_pixels)
            except UnreadablePicture as error:
                skipped.append(Unusable(row.key, str(error)))
                continue
            values.append(make_views(picture, size, views, row.key))
        rows.append(replace(row, image=b""))
    if not values:
        return DecodedBatch([], torch.empty(0, views.views, 3, *input_shape, dtype=torch.uint8), skipped)
    made = torch.from_numpy(np.stack(values))  # (B, views, H, W, 3), or an array's own shape
    is_picture = isinstance(values[0], list)
    return DecodedBatch(rows, made.permute(0, 1, 4, 2, 3) if is_picture else made, skipped)  # channels last
