"""Pictures that show the same pixels as another."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image as PILImage

from vqlm.data_prep.collections.collection import Collection
from vqlm.data_prep.collections.picture_loading import in_order
from vqlm.data_prep.collections.worker_processes import mapped_shards
from vqlm.data_prep.pictures.picture_files import UnreadablePicture, decode_picture
from vqlm.data_prep.settings import CollectionConfig
from vqlm.data_prep.sources.rows import Row, Shard, Unusable, read_all
from vqlm.training.watching.progress import Progress

# Decoded at about this size, to be fast: large JPEGs at a fraction of their own, drawings at twice this.
SIZE = (64, 64)


def digest_of_pixels(picture: PILImage.Image) -> bytes:
    """8 bytes by which the pixels of a decoded picture are recognised."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).digest()[:8]


def without_copies(collection: Collection, num_workers: int | None = None) -> Collection:
    """The collection without pictures that have the same pixels as an earlier one, and without their captions. Every
    picture is decoded for that."""
    digest = partial(_digests, config=collection.config)
    progress = Progress("copies")
    seen: set[bytes] = set()
    copies: set[str] = set()
    total = 0
    for _, pairs in in_order(mapped_shards(collection.shards, digest, num_workers)):
        total += len(pairs)
        progress.tick(f"{total:,} pictures")
        for key, pixels in pairs:
            if pixels in seen:
                copies.add(key)
            seen.add(pixels)
    if not copies:
        return collection
    shards = [replace(shard, read=partial(_read_without, shard, frozenset(copies))) for shard in collection.shards]
    note = f"{len(copies):,} of {total:,} pictures are copies of another, left out"
    return replace(collection, shards=shards, notes=(*collection.notes, note))


def _digests(chunk: list[Row | Unusable], config: CollectionConfig) -> list[tuple[str, bytes]]:
    """Keys and digests of the pictures that can be decoded."""
    pairs = []
    for row in chunk:
        if isinstance(row, Unusable) or isinstance(row.image, np.ndarray):
            continue
        try:
            picture = decode_picture(row.image, SIZE, config.background, config.max_pixels, config.fit_or_auto)
        except UnreadablePicture:
            continue
        pairs.append((row.key, digest_of_pixels(picture)))
    return pairs


def _read_without(shard: Shard, copies: frozenset[str]) -> Iterator[Row | Unusable]:
    return (row for row in read_all([shard]) if row.key not in copies)
