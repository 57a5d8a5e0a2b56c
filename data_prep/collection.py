"""Opens the collection that a string names, as captioned rows, and splits it into training and held-out rows."""

import glob
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Features, Image, IterableDataset, List, Value
from PIL import Image as PILImage
from vqlm.data_prep.caption_lines import no_line
from vqlm.data_prep.caption_prefix import without_prefix
from vqlm.data_prep.choosing import chosen_rows
from vqlm.data_prep.file_kinds import is_picture, is_system_file, key_of
from vqlm.data_prep.names import NO_WORDS
from vqlm.data_prep.rows import TABLE_ROWS, Row, Shard, Unusable, digest_of, join_shards, kind_of_other, read_all
from vqlm.data_prep.settings import DATA_HELP, CollectionConfig
from vqlm.data_prep.source_names import parts_of, require_data
from vqlm.data_prep.sources.arrays import array_shards
from vqlm.data_prep.sources.folder import METADATA, files_below, read_folder, shards_of_content
from vqlm.data_prep.sources.openmoji import ATTRIBUTION, SPLITS, openmoji_shards
from vqlm.data_prep.sources.tables import count_rows, has_picture_column, hub_shards, parquet_shards
from vqlm.data_prep.sources.webdataset import count_members, tar_shards, unique_names
from vqlm.data_prep.splits import (
    GIVEN_NAMES,
    HELD_OUT,
    TRAIN,
    HashSplit,
    JoinedSplit,
    KeySplit,
    SplitRule,
    described_rule,
    given_split,
    hash_share,
    split_rule,
)
from vqlm.training.errors import UserError
from vqlm.training.files import NOTICE_FILE
from vqlm.vq import VQVAEConfig

SAVED_DATASET = ("state.json", "dataset_dict.json")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# With fewer rows than this the hash may hold out none of them.
SMALL = 200
# What collections were read by before there were these settings.
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
        splits: the split of each key; None where `rule` decides.
        array_shape: None for pictures, (C, *shape) for arrays.
        attribution: the licence line that every model trained on this collection carries.
        rule: the split of a key.
        count_files: how many files of which kind the place holds; None where it has no files.
        notes: what a person should know of pictures that are left out, one line each.
        drawn_side: side in pixels at which this collection draws its pictures, which have no size of their own.
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
        """This collection with its pictures on the background and fitted as an image tokenizer learned them.

        Raises UserError where the collection's settings say otherwise than by their defaults.
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


def load_collection(
    data: str, image_size: int = 64, config: CollectionConfig | None = None, needs_captions: bool = True
) -> Collection:
    """Open a collection. Only names, captions and sizes are read.

    A file `NOTICE` beside the pictures holds their licence lines, which every model trained on them carries.

    Args:
        data: one of the forms in `DATA_HELP`, or several with " + " between them; the keys of each then begin with its
            name.
        image_size: side in pixels at which OpenMoji is drawn; other pictures keep their size.
        config: how the collection is read.
        needs_captions: whether a picture without a caption is unusable; else its caption is "".

    Returns:
        The collection, its rows not yet read.

    Raises:
        UserError: `data` is none of the forms, or has fewer than two usable rows.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> from vqlm import load_collection
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog", "owl"):
        ...     Image.new("RGB", (40, 30)).save(folder / f"{name}.png")
        ...     _ = (folder / f"{name}.txt").write_text(f"a {name}", encoding="utf-8")
        >>> [(row.key, row.captions) for row in load_collection(str(folder)).rows()]
        [('cat.png', ('a cat',)), ('dog.png', ('a dog',)), ('owl.png', ('a owl',))]
    """
    # Pillow would warn of pictures that are refused here with a reason.
    warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
    reading = Reading(image_size, config or CollectionConfig(), needs_captions)
    require_data(data)
    parts = parts_of(data)
    if len(parts) == 1:
        collection = _load_part(data, reading)
    else:
        collections = {name: _load_part(part, reading) for name, part in zip(_part_names(parts), parts, strict=True)}
        collection = _joined(collections, reading.config)
    if reading.config.drop_copies and collection.array_shape is None:
        from vqlm.data_prep.copies import without_copies  # which reads collections

        return without_copies(collection)  # type: ignore[arg-type,return-value]  # the same class, seen by another path
    return collection


class Reading(NamedTuple):
    """What `load_collection` was given besides the name of the collection."""

    image_size: int
    config: CollectionConfig
    needs_captions: bool


def _load_part(data: str, reading: Reading) -> Collection:
    collection = _open(data, reading)
    collection.attribution = collection.attribution or _notice_beside(data)
    return collection


def _part_names(parts: list[str]) -> list[str]:
    """A name of each part that does not depend on how its path is written."""
    names: list[str] = []
    for part in parts:
        name = Path(part).resolve().name if os.path.exists(part) else part.replace(os.sep, "-").replace(":", "-")
        name = key_of(name).strip("-.") or "data"
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


def _joined(collections: dict[str, Collection], config: CollectionConfig) -> Collection:
    """One collection of several, whose keys begin with the names."""
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


def _open(data: str, reading: Reading) -> Collection:
    image_size, config, needs_captions = reading
    kind, _, rest = data.partition(":")
    if kind == "openmoji":
        _require_own_captions(data, config)
        shards, splits = openmoji_shards(image_size, rest)
        if config.held_out is not None:
            rule = split_rule(config.held_out, {})
            return Collection(
                _chosen(shards, reading), config, rule=rule, attribution=ATTRIBUTION, drawn_side=image_size
            )
        return Collection(
            _chosen(shards, reading), config, SPLITS, splits, attribution=ATTRIBUTION, drawn_side=image_size
        )
    if kind == "hf" and rest:
        return _of_dataset(rest, reading)
    place = Path(data)
    if place.is_file() and place.suffix == ".npz":
        _require_own_captions(data, config)
        shards, shape = array_shards(place, needs_captions)
        rule = split_rule(config.held_out, {})
        return Collection(_chosen(shards, reading), config, array_shape=shape, rule=rule)
    if place.is_dir():
        return _of_folder(place, reading)
    files = [place] if place.is_file() else [Path(name) for name in glob.glob(data, recursive=True)]
    if collection := _of_files([path for path in files if path.is_file()], reading):
        return collection
    raise UserError(f"`data` must be {DATA_HELP[:-1]}; {data!r} is none of them.")


def _notice_beside(data: str) -> str | None:
    place = Path(data)
    notice = (place if place.is_dir() else place.parent) / NOTICE_FILE
    return notice.read_text(encoding="utf-8").strip() or None if notice.is_file() else None


def _require_own_captions(place: object, config: CollectionConfig) -> None:
    """Raises UserError for settings of names and texts, which tables, data sets and arrays do without."""
    for name, default in (("captions_from", "files"), ("caption_lines", "all")):
        if (value := getattr(config, name)) != default:
            raise UserError(f"`{name}` {value} has no effect on {place}, which has its own captions; leave it out.")


def _chosen(shards: list[Shard], reading: Reading) -> list[Shard]:
    """The shards, of which only the rows that the settings want are rows."""
    if reading.config.drop_prefix:
        shards = without_prefix(shards, reading.config.drop_prefix)
    return [
        replace(shard, read=partial(chosen_rows, shard.read, reading.config, reading.needs_captions))
        for shard in shards
    ]


def _of_dataset(name: str, reading: Reading) -> Collection:
    config = reading.config
    _require_own_captions(name, config)
    shards, given = hub_shards(name, config.columns, config.class_template, reading.needs_captions)
    return Collection(_chosen(shards, reading), config, rule=split_rule(config.held_out, given))


def _of_folder(folder: Path, reading: Reading) -> Collection:
    """A folder holds pictures, or archives or tables, or a data set that was saved to disk."""
    if any((folder / name).is_file() for name in SAVED_DATASET):
        return _of_dataset(str(folder), reading)
    config = reading.config
    names = sorted(files_below(folder))
    data = [name for name in names if not is_system_file(name)]
    top = [name for name in data if "/" not in name]
    if not any(name.lower() in METADATA for name in top):
        # Archives and tables in folders inside it count where there are no pictures beside them.
        files = data if not any(map(is_picture, data)) else top
        if collection := _of_files([folder / name for name in files], reading, is_chosen=False):
            return collection
    content = read_folder(
        folder, config.class_template, config.columns, config.allow_outside_files, names, config.is_named,
        config.caption_lines, reading.needs_captions,
    )  # fmt: skip
    first_parts = {key.partition("/")[0] for key in content.entries if "/" in key}
    given = {part: GIVEN_NAMES[part.lower()] for part in sorted(first_parts) if part.lower() in GIVEN_NAMES}
    shards = _chosen(shards_of_content(folder, content), reading)
    told = (NO_WORDS, no_line(config.caption_lines))
    notes = tuple(f"{content.kinds[kind]:,} {kind}" for kind in told if content.kinds[kind])
    count = partial(Counter, content.kinds)
    return Collection(
        shards, config, rule=split_rule(config.held_out, given, content.splits), count_files=count, notes=notes
    )


def _of_files(paths: list[Path], reading: Reading, is_chosen: bool = True) -> Collection | None:
    """The archives among `paths`, else the tables; None if there are neither. A table that was not chosen by its name
    counts only if it has pictures in it."""
    config = reading.config
    paths = sorted(path for path in paths if not is_system_file(path.name))
    tars = [path for path in paths if path.name.lower().endswith(TAR_SUFFIXES)]
    tables = [path for path in paths if path.suffix.lower() == ".parquet"]
    if not is_chosen:
        tables = [path for path in tables if has_picture_column(path, config.image_column)]
    if not tars and not tables:
        return None
    used = tars or tables
    others = Counter(kind_of_other(path.name) for path in set(paths).difference(used))
    rule = split_rule(config.held_out, _given_splits(unique_names(used)))
    if tars:
        shards = tar_shards(tars, config.caption_column, config.class_template, config.is_named, config.caption_lines)
        count = partial(_count_archives, tars, others)
    else:
        _require_own_captions(tables[0], config)
        shards = parquet_shards(tables, config.columns, config.allow_outside_files, reading.needs_captions)
        count = partial(_count_tables, tables, others)
    return Collection(_chosen(join_shards(shards), reading), config, rule=rule, count_files=count)


def _count_archives(paths: list[Path], others: Counter[str]) -> Counter[str]:
    return count_members(paths) + others


def _count_tables(paths: list[Path], others: Counter[str]) -> Counter[str]:
    return Counter({"tables": len(paths), TABLE_ROWS: count_rows(paths)}) + others


def _given_splits(names: dict[str, Path]) -> dict[str, str]:
    """The split that each file's name speaks of, or the name of a folder that it lies in."""
    common = os.path.commonpath([path.parent for path in names.values()])
    given = {}
    for name, path in names.items():
        folders = reversed(Path(os.path.relpath(path.parent, common)).parts)
        if split := given_split(path.name.partition(".")[0], *folders):
            given[name] = split
    return given


def _splits_of_few(collection: Collection) -> dict[str, str] | None:
    """The splits of a collection so small that the rule might hold out none or all of it; None for larger ones."""
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
