"""A collection: shards of captioned rows, how they are read, and which of them are held out."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Features, Image, IterableDataset, List, Value

from vqlm.data_prep.settings import CollectionConfig
from vqlm.data_prep.sources.rows import Row, Shard, Unusable, digest_of, read_all
from vqlm.data_prep.splits import (
    HELD_OUT,
    TRAIN,
    HashSplit,
    JoinedSplit,
    KeySplit,
    SplitRule,
    described_rule,
    hash_share,
)
from vqlm.training.errors import UserError
from vqlm.vq import VQVAEConfig

# With fewer rows than this the hash may hold out none of them, or all.
SMALL = 200
# The values by which collections were read before these settings existed.
BEFORE_SETTING = {
    "allow_outside_files": False, "fit": "crop", "captions_from": "files", "caption_lines": "all", "drop_prefix": None,
    "drop_copies": False, "min_side": 0, "max_aspect": None, "min_caption_words": 0, "max_caption_words": None,
    "add_prefix": "", "add_suffix": "",
}  # fmt: skip


@dataclass
class Collection:
    """Shards of rows, not yet read.

    Attributes:
        shards: the parts of the collection.
        config: how it is read.
        held_out_names: the splits that no stage trains on.
        splits: the split of each key; None if `rule` decides.
        array_shape: None for pictures, (C, *shape) for arrays.
        attribution: the licence line that every model trained on this collection carries.
        rule: gives the split of a key.
        count_files: counts the files of each kind; None for a collection that is not made of files.
        notes: what a person should know about pictures that are left out, one line each.
        drawn_side: side in pixels at which pictures without a size of their own, as those of OpenMoji, are drawn; else
            None.
    """

    shards: list[Shard]
    config: CollectionConfig = field(default_factory=CollectionConfig)
    held_out_names: tuple[str, ...] = (HELD_OUT,)
    splits: dict[str, str] | None = None
    array_shape: tuple[int, ...] | None = None
    attribution: str | None = None
    rule: SplitRule = HashSplit()
    count_files: Callable[[], Counter[str]] | None = None
    notes: tuple[str, ...] = ()
    drawn_side: int | None = None

    def __post_init__(self):
        if self.splits is None:
            self.held_out_names = self.rule.held_out_names
            self.splits = _splits_of_few(self)

    @property
    def split_names(self) -> list[str]:
        return [TRAIN, *self.held_out_names]

    def split_of(self, key: str) -> str:
        if self.splits is not None:
            return self.splits[key]
        return self.rule(key)

    def rows(self, split: str | None = None) -> Iterator[Row]:
        """The usable rows of one split, or of all, in order and not decoded."""
        return _usable(self.shards, split, self.split_of)

    def dataset(self, split: str | None = None) -> IterableDataset:
        """The same rows {image, captions, key} as a streamed data set of `datasets`, with the same shards."""
        if self.array_shape is not None:
            raise UserError("A data set holds pictures only; read arrays from their .npz file.")
        features = Features({"image": Image(), "captions": List(Value("string")), "key": Value("string")})
        arguments = {"shards": self.shards, "split": split, "split_of": replace(self, count_files=None).split_of}
        return IterableDataset.from_generator(_examples, features=features, gen_kwargs=arguments)  # type: ignore[return-value]

    def as_learned_by(self, image_tokenizer: VQVAEConfig) -> "Collection":
        """This collection with the `background` and `fit` with which an image tokenizer learned its pictures.

        Raises UserError if the collection's settings give another background or fit.
        """
        if self.array_shape is not None:
            return self
        background, fit = self.config.background, self.config.fit
        if background not in (CollectionConfig.background, image_tokenizer.background):
            raise UserError(
                f"The collection puts transparent pictures on {background}, the image tokenizer learned them on "
                f"{image_tokenizer.background}; set `background` to {image_tokenizer.background}, or train another "
                "image tokenizer."
            )
        if fit not in (None, image_tokenizer.fit):
            raise UserError(
                f"The collection fits pictures by {fit}, the image tokenizer learned them by {image_tokenizer.fit}; "
                "leave `fit` out, or train another image tokenizer."
            )
        return replace(
            self, config=replace(self.config, fit=image_tokenizer.fit, background=image_tokenizer.background)
        )

    def fingerprint(self) -> str:
        """16 hex digits that depend on the content of the shards and on how they are read."""
        settings = asdict(self.config) | {"max_skipped": None, "fit": self.config.fit_or_auto}
        # Settings that came later are left out where they change nothing, so that earlier runs are recognised.
        settings = {name: value for name, value in settings.items() if value != BEFORE_SETTING.get(name, ...)}
        if settings.pop("held_out") is not None or isinstance(self.rule, KeySplit | JoinedSplit):
            # A result depends on what is held out, not on how that is written down.
            settings["held_out"] = described_rule(self.rule)
        return digest_of([settings, *((shard.name, shard.stamp) for shard in self.shards)])


def _usable(shards: list[Shard], split: str | None, split_of: Callable[[str], str]) -> Iterator[Row]:
    return (row for row in read_all(shards) if isinstance(row, Row) and split in (None, split_of(row.key)))


def _examples(shards: list[Shard], split: str | None, split_of: Callable[[str], str]) -> Iterator[dict[str, Any]]:
    for row in _usable(shards, split, split_of):
        is_file = isinstance(row.image, Path)
        image = {"path": str(row.image), "bytes": None} if is_file else {"path": None, "bytes": row.image}
        yield {"image": image, "captions": list(row.captions), "key": row.key}


def _splits_of_few(collection: Collection) -> dict[str, str] | None:
    """The split of each key of a collection so small that the rule might hold out none or all; None for larger ones."""
    rows: list[Row] = []
    unusable: list[Unusable] = []
    for row in read_all(collection.shards):
        if isinstance(row, Unusable):
            unusable.append(row)
            continue
        rows.append(row)
        if len(rows) == SMALL:
            return None
    keys = [row.key for row in rows]
    if len(keys) < 2:
        reason = f"; {unusable[0].key}: {unusable[0].reason}" if unusable else ""
        raise UserError(
            f"The collection holds {len(keys)} captioned picture{'' if len(keys) == 1 else 's'} that can be used; at "
            f"least 2 are needed, since one is held out{reason}."
        )
    splits = {key: collection.rule(key) for key in keys}
    if isinstance(collection.rule, HashSplit):  # at least one on each side
        least, most = min(keys, key=hash_share), max(keys, key=hash_share)
        return (
            splits | {least: HELD_OUT} | ({most: TRAIN} if TRAIN not in (splits | {least: HELD_OUT}).values() else {})
        )
    if len({split == TRAIN for split in splits.values()}) < 2:
        side = "all" if TRAIN not in splits.values() else "none"
        raise UserError(
            f"`held_out` holds out {side} of the {len(keys)} pictures, whose keys are such as {keys[0]}; some must be "
            "held out and some trained on."
        )
    return splits
