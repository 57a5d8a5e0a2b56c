"""Reads and decodes rows to arrays, in worker processes and ahead of their use."""

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
from vqlm.training.progress import Progress

BATCH = 128
MAX_WORKERS = 8
# Held-out pictures that stage one measures itself on, where the number of pictures is limited.
MAX_HELD_OUT = 4096

Output = TypeVar("Output")
PictureTensor = UInt8[Tensor, "_ c *shape"] | Float[Tensor, "_ c *shape"]


@dataclass
class DecodedBatch:
    """Decoded rows.

    rows: without their undecoded pictures. values: (B, views, C, *shape), uint8 or fp32 in [-1, 1]. skipped: rows that
    could not be decoded.
    """

    rows: list[Row]
    values: Tensor
    skipped: list[Unusable]


@dataclass
class LoadedPictures:
    """train, held_out: (N, C, *shape) in memory. skipped: rows that could not be used."""

    train: PictureTensor
    held_out: PictureTensor
    skipped: SkippedRows


def load_pictures(
    collection: Collection, input_shape: Sequence[int], max_pictures: int | None = None
) -> LoadedPictures:
    """The pictures or arrays of a collection in memory.

    Args:
        collection: what to read.
        input_shape: (H, W) to bring pictures to; for arrays, their shape without channels.
        max_pictures: number of training pictures to read at most, the same number from each shard as far as it
            suffices, whatever the number of processes. Held-out pictures come from the rows that are read for them.

    Returns:
        Pictures as (N, 3, H, W) uint8, arrays as (N, C, *shape), and the rows that were skipped.

    Raises:
        UserError: `input_shape` does not fit; more rows than the collection's `max_skipped` cannot be used; no picture
            is left to train on or none is held out.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> from vqlm import load_collection, load_pictures
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog", "owl"):
        ...     Image.new("RGB", (40, 30)).save(folder / f"{name}.png")
        ...     _ = (folder / f"{name}.txt").write_text(f"a {name}", encoding="utf-8")
        >>> pictures = load_pictures(load_collection(str(folder)), (16, 16))
        >>> pictures.train.shape, pictures.held_out.shape
        (torch.Size([2, 3, 16, 16]), torch.Size([1, 3, 16, 16]))
    """
    require_shape(collection, input_shape)
    shards = list(collection.shards)
    share = None
    if max_pictures is not None:
        random.Random(0).shuffle(shards)
        # A tenth is held out by default, so that somewhat more than an even share is read.
        share = -(-int(1.15 * max_pictures) // max(1, len(shards)))
    loaded = _Loaded(collection, input_shape, max_pictures)
    counts = loaded.read(shards, 0, share)
    if share is not None and not loaded.is_full:
        loaded.read([shard for shard, count in zip(shards, counts, strict=True) if count >= share], share, None)
    loaded.skipped.require_few()
    train, held_out = len(loaded.train), len(loaded.held_out)
    if not train or not held_out:
        raise UserError(
            f"{train} pictures to train on and {held_out} held out could be read; at least 1 of each is needed."
        )
    return LoadedPictures(torch.stack(loaded.train), torch.stack(loaded.held_out), loaded.skipped)


class _Loaded:
    """Pictures that were read so far, each (C, *shape)."""

    def __init__(self, collection: Collection, input_shape: Sequence[int], max_pictures: int | None):
        self.split_of = collection.split_of
        self.decode = partial(decode_rows, input_shape=input_shape, config=collection.config, views=ViewConfig())
        self.max_train = max_pictures or float("inf")
        self.max_held_out = MAX_HELD_OUT if max_pictures else float("inf")
        self.train: list[Tensor] = []
        self.held_out: list[Tensor] = []
        self.skipped = SkippedRows(collection.config.max_skipped)
        self.progress = Progress("read")

    @property
    def is_full(self) -> bool:
        return len(self.train) >= self.max_train

    def read(self, shards: list[Shard], start: int, stop: int | None) -> list[int]:
        """Read the rows `start` to `stop` of each shard until there are enough; gives how many each shard had."""
        parts = [replace(shard, read=partial(_part, shard, start, stop)) for shard in shards]
        counts = [0] * len(shards)
        # In the order of the shards: which worker is faster must not decide which pictures are taken.
        for number, batch in in_order(mapped_shards(parts, self.decode)):
            counts[number] += len(batch.rows) + len(batch.skipped)
            self.skipped.add(len(batch.rows) + len(batch.skipped), batch.skipped)
            self.progress.tick(f"{self.skipped.seen:,} pictures")
            for row, value in zip(batch.rows, batch.values[:, 0], strict=True):
                if self.split_of(row.key) == TRAIN:
                    if not self.is_full:
                        self.train.append(value)
                elif len(self.held_out) < self.max_held_out:
                    self.held_out.append(value)
            if self.is_full:
                break
        return counts


def _part(shard: Shard, start: int, stop: int | None) -> Iterator[Row | Unusable]:
    return itertools.islice(shard.read(), start, stop)


def in_order(batches: Iterator[tuple[int, Output, bool]]) -> Iterator[tuple[int, Output]]:
    """What `mapped_shards` gives, shard by shard and without the marks of ends; what comes early waits in memory."""
    waiting: dict[int, list[Output]] = {}
    ended: set[int] = set()
    current = 0
    for number, output, is_last in batches:
        if is_last:
            ended.add(number)
        else:
            waiting.setdefault(number, []).append(output)
        yield from ((current, output) for output in waiting.pop(current, []))
        while current in ended:
            current += 1
            yield from ((current, output) for output in waiting.pop(current, []))


def require_shape(collection: Collection, input_shape: Sequence[int]) -> None:
    """Raises UserError if a network of `input_shape` does not fit the collection."""
    if collection.array_shape is None:
        if len(input_shape) != len(("height", "width")):
            raise UserError(f"Pictures need a `network.input_shape` of height and width, found {list(input_shape)}.")
    elif tuple(collection.array_shape[1:]) != tuple(input_shape):
        shape = list(collection.array_shape[1:])
        raise UserError(
            f"The arrays have the shape {shape} without channels and `network.input_shape` is "
            f"{list(input_shape)}; set `network.input_shape` to {shape}."
        )


def mapped_shards(
    shards: Sequence[Shard], function: Callable[[list[Row | Unusable]], Output], num_workers: int | None = None
) -> Iterator[tuple[int, Output, bool]]:
    """Apply `function` to all rows of `shards`, `BATCH` at a time, in worker processes.

    Yields (number of the shard, `function(rows)`, False), and at the end of a shard (number, `function([])`, True).
    The batches of one shard come in order; each worker reads other shards, so that batches of several shards alternate.

    Workers are processes, not threads: Python's lock would stop the caller's network at each step of theirs.
    `num_workers` is by default the number of cores less one; 0 works in this process.
    """
    if num_workers is None:
        num_workers = max(1, min(MAX_WORKERS, len(shards), (os.cpu_count() or 1) - 1))
    if num_workers:
        # A tokenizer that has used threads would warn at every fork.
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
    """Decode one batch in this thread."""
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
                picture = decode_picture(row.image, size, config.background, config.max_pixels, config.fit_or_auto)
            except UnreadablePicture as error:
                skipped.append(Unusable(row.key, str(error)))
                continue
            values.append(make_views(picture, size, views, row.key))
        rows.append(replace(row, image=b""))
    if not values:
        return DecodedBatch([], torch.empty(0, views.views, 3, *input_shape, dtype=torch.uint8), skipped)
    stacked = torch.from_numpy(np.stack(values))  # pictures (B, views, H, W, 3), arrays (B, 1, C, *shape)
    is_picture = isinstance(values[0], list)
    return DecodedBatch(rows, stacked.permute(0, 1, 4, 2, 3) if is_picture else stacked, skipped)
