"""Rows to arrays, decoded by threads ahead of whoever uses them."""

import itertools
import os
import queue
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data_prep.collection import TRAIN, Collection, CollectionConfig
from data_prep.pictures import UnreadablePicture, ViewConfig, decode_picture, make_views
from data_prep.rows import Row, Unusable
from data_prep.skipped import SkippedRows
from training.errors import UserError

BATCH = 64
AHEAD = 4  # batches
# So many held-out pictures tell what a tokenizer is worth; more only cost time.
MAX_HELD_OUT = 4096

PictureTensor = UInt8[Tensor, "_ c *shape"] | Float[Tensor, "_ c *shape"]


@dataclass
class DecodedBatch:
    """rows: those that could be decoded; values: (B, views, C, *shape), uint8 or fp32 in [-1, 1]; skipped: the rest."""

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
    rows = itertools.chain.from_iterable(shard.read() for shard in shards)
    for batch in decoded_batches(rows, input_shape, collection.config):
        skipped.add(len(batch.rows) + len(batch.skipped), batch.skipped)
        is_train = torch.tensor([collection.split_of(row.key) == TRAIN for row in batch.rows], dtype=torch.bool)
        for part in (True, False):
            chosen = batch.values[is_train == part, 0] if len(batch.rows) else batch.values[:, 0]
            chosen = chosen[: int(min(limits[part] - counts[part], len(chosen)))]
            counts[part] += len(chosen)
            parts[part].append(chosen)
        if counts[True] >= limits[True]:
            break
    skipped.require_few()
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


def decoded_batches(
    rows: Iterable[Row | Unusable],
    input_shape: Sequence[int],
    config: CollectionConfig,
    views: ViewConfig | None = None,
) -> Iterator[DecodedBatch]:
    """Rows in batches of `BATCH` as they come, decoded and scaled, in order.

    One thread reads and others decode, a few batches ahead: Pillow decodes without Python's lock.
    """
    threads = max(1, min(8, (os.cpu_count() or 1) - 1))
    decoded: queue.Queue[Future[DecodedBatch] | BaseException | None] = queue.Queue(AHEAD + threads)
    is_stopped = threading.Event()

    def put(item: Future[DecodedBatch] | BaseException | None) -> None:
        while not is_stopped.is_set():
            with suppress(queue.Full):
                decoded.put(item, timeout=0.1)
                return

    def read(pool: ThreadPoolExecutor) -> None:
        try:
            iterator = iter(rows)
            while (chunk := list(itertools.islice(iterator, BATCH))) and not is_stopped.is_set():
                put(pool.submit(decode_rows, chunk, input_shape, config, views or ViewConfig()))
            put(None)
        except BaseException as error:  # raised again in the thread that uses the batches
            put(error)

    with ThreadPoolExecutor(threads) as pool:
        reader = threading.Thread(target=read, args=(pool,), daemon=True)
        reader.start()
        try:
            while (item := decoded.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item.result()
        finally:
            is_stopped.set()
            reader.join()


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
            values.append(np.stack(make_views(picture, size, views, row.key)))
        rows.append(row)
    if not values:
        return DecodedBatch([], torch.empty(0, views.views, 3, *input_shape, dtype=torch.uint8), skipped)
    made = torch.from_numpy(np.stack(values))  # (B, views, H, W, 3), or an array's own shape
    if not isinstance(rows[0].image, np.ndarray):
        made = made.permute(0, 1, 4, 2, 3)
    return DecodedBatch(rows, made.contiguous(), skipped)
