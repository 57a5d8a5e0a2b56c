"""Joins several collections to one, whose keys begin with the names of the parts."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from vqlm.data_prep.collections.collection import Collection
from vqlm.data_prep.pictures.file_kinds import key_of
from vqlm.data_prep.settings import CollectionConfig
from vqlm.data_prep.sources.rows import Row, Shard, Unusable, join_shards
from vqlm.data_prep.splits import JoinedSplit
from vqlm.training.errors import UserError


def part_names(parts: list[str]) -> list[str]:
    """A name for each part, the same however its path is written, and different for each."""
    names: list[str] = []
    for part in parts:
        name = Path(part).resolve().name if os.path.exists(part) else part.replace(os.sep, "-").replace(":", "-")
        name = key_of(name).strip("-.") or "data"
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


def joined(collections: dict[str, Collection], config: CollectionConfig) -> Collection:
    """One collection of several, whose keys begin with the names. Raises UserError if one holds arrays."""
    if arrays := [name for name, collection in collections.items() if collection.array_shape is not None]:
        raise UserError(f"several collections must all hold pictures; {arrays[0]} holds arrays.")
    shards, by_part, held_out, count, notices = [], {}, {}, [], {}
    for name, collection in collections.items():
        shards += [
            Shard(f"{name}/{shard.name}", partial(_prefixed, shard.read, name), shard.stamp)
            for shard in collection.shards
        ]
        by_part[name] = collection.rule if collection.splits is None else collection.splits
        held_out |= dict.fromkeys(collection.held_out_names)
        notices |= dict.fromkeys((collection.attribution or "").split("\n"))
        count.append(collection.count_files)
    attribution = "\n".join(line for line in notices if line) or None
    files = partial(_count_all, [each for each in count if each is not None])
    rule = JoinedSplit(by_part, tuple(held_out))
    notes = tuple(note for collection in collections.values() for note in collection.notes)
    drawn_side = next((each.drawn_side for each in collections.values() if each.drawn_side), None)
    return Collection(
        join_shards(shards), config, attribution=attribution, rule=rule, count_files=files, notes=notes,
        drawn_side=drawn_side,
    )  # fmt: skip


def _prefixed(read: Callable[[], Iterator[Row | Unusable]], name: str) -> Iterator[Row | Unusable]:
    return (replace(row, key=f"{name}/{row.key}") for row in read())


def _count_all(counts: list[Callable[[], Counter[str]]]) -> Counter[str]:
    return sum((count() for count in counts), Counter())
