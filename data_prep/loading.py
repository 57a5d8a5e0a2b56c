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
        input_shape: (H, W) to scale and crop pictures to; for arrays, their shape without channels.
        max_pictures: number of training pictures to read at most, from shards in random order. Held-out pictures are
            those of the same shards.

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
    if max_pictures is not None:
        random.Random(0).shuffle(shards)
    parts: dict[bool, list[Tensor]] = {True: [], False: []}
    counts = {True: 0, False: 0}
    limits = {True: max_pictures or float("inf"), False: MAX_HELD_OUT if max_pictures else float("inf")}
    skipped = SkippedRows(collection.config.max_skipped)
    decode = partial(decode_rows, input_shape=input_shape, config=collection.config, views=ViewConfig())
    progress = Progress("read")
    for _, batch, _ in mapped_shards(shards, decode):
        skipped.add(len(batch.rows) + len(batch.skipped), batch.skipped)
        progress.tick(f"{skipped.seen:,} pictures")
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
            f"{counts[True]} pictures to train on and {counts[False]} held out could be read; at least 1 of each is "
            "needed."
        )
    return LoadedPictures(torch.cat(parts[True]), torch.cat(parts[False]), skipped)


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
                picture = decode_picture(row.image, size, config.background, config.max_pixels)
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
