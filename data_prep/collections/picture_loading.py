"""Reads the pictures of a collection into memory, or decodes its rows in batches, in worker processes."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vqlm.data_prep.collections.collection import Collection
from vqlm.data_prep.collections.skipped import SkippedRows
from vqlm.data_prep.collections.worker_processes import mapped_shards
from vqlm.data_prep.pictures.picture_files import UnreadablePicture, decode_picture, make_views
from vqlm.data_prep.settings import CollectionConfig, ViewConfig
from vqlm.data_prep.sources.rows import Row, Shard, Unusable
from vqlm.data_prep.splits import TRAIN, hash_share
from vqlm.training.errors import UserError
from vqlm.training.watching.progress import Progress

# Held-out pictures that stage one is evaluated on, if the number of pictures is limited.
MAX_HELD_OUT = 4096

Output = TypeVar("Output")
PictureTensor = UInt8[Tensor, "_ c *shape"] | Float[Tensor, "_ c *shape"]


@dataclass
class DecodedBatch:
    """Decoded rows.

    rows: the decoded ones, with empty `image`. values: (B, views, C, *shape), uint8 or fp32 in [-1, 1]. skipped: rows
    that could not be decoded.
    """

    rows: list[Row]
    values: Tensor
    skipped: list[Unusable]


@dataclass
class LoadedPictures:
    """Pictures or arrays in memory.

    train, held_out: (N, C, *shape). skipped: rows that could not be used. sampled_from: number of training rows from
    which `train` is a sample; None if it holds all.
    """

    train: PictureTensor
    held_out: PictureTensor
    skipped: SkippedRows
    sampled_from: int | None = None

    def notes(self) -> list[str]:
        """What a person should know about pictures that were not loaded, one line each."""
        notes = [self.skipped.summary()]
        if self.sampled_from is not None:
            notes.append(
                f"{len(self.train):,} of {self.sampled_from:,} training pictures are used, a sample of all of them"
            )
        return [note for note in notes if note]


def load_pictures(
    collection: Collection, input_shape: Sequence[int], max_pictures: int | None = None, seed: int = 0
) -> LoadedPictures:
    """The pictures or arrays of a collection in memory.

    Args:
        collection: what to read.
        input_shape: (H, W) to bring pictures to; for arrays, their shape without channels.
        max_pictures: the most training pictures. From a larger collection a sample of them is loaded, and at most
            `MAX_HELD_OUT` held-out pictures. Its rows are then read once more, without decoding.
        seed: decides the sample, whatever the number of processes.

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
    loaded, total = _Loaded(collection, input_shape), None
    if not loaded.read(collection.shards, float("inf") if max_pictures is None else max_pictures):
        assert max_pictures is not None
        shards, total = sampled_shards(collection, max_pictures, MAX_HELD_OUT, seed)
        loaded = _Loaded(collection, input_shape)
        loaded.read(shards, max_pictures)
    loaded.skipped.require_few()
    train, held_out = len(loaded.train), len(loaded.held_out)
    if not train or not held_out:
        raise UserError(
            f"{train} pictures to train on and {held_out} held out could be read; at least 1 of each is needed."
        )
    return LoadedPictures(torch.stack(loaded.train), torch.stack(loaded.held_out), loaded.skipped, total)


class _Loaded:
    """Pictures that were read so far, each (C, *shape)."""

    def __init__(self, collection: Collection, input_shape: Sequence[int]):
        self.split_of = collection.split_of
        self.decode = partial(decode_rows, input_shape=input_shape, config=collection.config, views=ViewConfig())
        self.train: list[Tensor] = []
        self.held_out: list[Tensor] = []
        self.skipped = SkippedRows(collection.config.max_skipped)
        self.progress = Progress("read")

    def read(self, shards: list[Shard], most: int | float) -> bool:
        """Read all rows. Stops and returns False at more than `most` training rows."""
        # In the order of the shards: which worker is faster must not decide the order of the pictures.
        for _, batch in in_order(mapped_shards(shards, self.decode)):
            self.skipped.add(len(batch.rows) + len(batch.skipped), batch.skipped)
            self.progress.tick(f"{self.skipped.seen:,} pictures")
            for row, value in zip(batch.rows, batch.values[:, 0], strict=True):
                (self.train if self.split_of(row.key) == TRAIN else self.held_out).append(value)
            if len(self.train) > most:
                return False
        return True


@dataclass
class _Keys:
    """The training and the held-out keys of one shard, each with the number by which it is sampled."""

    train: list[tuple[float, str]]
    held_out: list[tuple[float, str]]


def sampled_shards(collection: Collection, most_train: int, most_held_out: int, seed: int) -> tuple[list[Shard], int]:
    """The shards with only a sample of their rows, and the number of training rows from which it is drawn.

    Every row has the same chance; the seed and the key decide. Each shard gives its share of the sample. All rows are
    read once for that and no picture is decoded.
    """
    keys = [_Keys([], []) for _ in collection.shards]
    progress, count = Progress("sample"), 0
    for number, batch, _ in mapped_shards(collection.shards, _keys_of):
        count += len(batch)
        progress.tick(f"{count:,} pictures")
        for key in batch:
            side = keys[number].train if collection.split_of(key) == TRAIN else keys[number].held_out
            side.append((hash_share(f"{seed} {key}"), key))
    chosen: list[set[str]] = [set() for _ in keys]
    for sides, most in (([part.train for part in keys], most_train), ([part.held_out for part in keys], most_held_out)):
        for kept, side, quota in zip(chosen, sides, quotas([len(side) for side in sides], most), strict=True):
            kept.update(key for _, key in heapq.nsmallest(quota, side))
    shards = [
        replace(shard, read=partial(_only, shard, frozenset(kept)))
        for shard, kept in zip(collection.shards, chosen, strict=True)
        if kept
    ]
    return shards, sum(len(part.train) for part in keys)


def quotas(counts: Sequence[int], most: int) -> list[int]:
    """`most` divided in the proportion of `counts`, each at most its count, by the largest remainders."""
    total = sum(counts)
    if total <= most:
        return list(counts)
    shares = [most * count / total for count in counts]
    whole = [int(share) for share in shares]
    order = sorted(range(len(counts)), key=lambda number: whole[number] - shares[number])
    for number in order[: most - sum(whole)]:
        whole[number] += 1
    return whole


def _keys_of(chunk: list[Row | Unusable]) -> list[str]:
    return [row.key for row in chunk if isinstance(row, Row)]


def _only(shard: Shard, keys: frozenset[str]) -> Iterator[Row | Unusable]:
    return (row for row in shard.read() if row.key in keys)


def in_order(batches: Iterator[tuple[int, Output, bool]]) -> Iterator[tuple[int, Output]]:
    """The batches of `mapped_shards` in the order of the shards; those that come too early wait in memory."""
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


def decode_few(
    rows: Sequence[Row | Unusable], input_shape: Sequence[int], config: CollectionConfig
) -> list[DecodedBatch]:
    """Decode a few rows in a worker process, as all rows are decoded, since a decoder may crash."""
    decode = partial(decode_rows, input_shape=input_shape, config=config, views=ViewConfig())
    return [batch for _, batch, _ in mapped_shards([Shard("a few rows", partial(iter, rows), "")], decode, 1)]


def decode_rows(
    chunk: Sequence[Row | Unusable], input_shape: Sequence[int], config: CollectionConfig, views: ViewConfig
) -> DecodedBatch:
    """Decode one batch in this process."""
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
