"""Opens the collection that a string names, as captioned rows that are split into training and held-out ones."""

import glob
import os
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image as PILImage

from vqlm.data_prep.captions.lines import no_line
from vqlm.data_prep.captions.names import NO_WORDS
from vqlm.data_prep.captions.prefix import without_prefix
from vqlm.data_prep.collections.choosing import chosen_rows
from vqlm.data_prep.collections.collection import Collection
from vqlm.data_prep.collections.copies import without_copies
from vqlm.data_prep.collections.joining import joined, part_names
from vqlm.data_prep.collections.source_names import parts_of, require_data
from vqlm.data_prep.pictures.file_kinds import is_picture, is_system_file
from vqlm.data_prep.settings import DATA_HELP, CollectionConfig
from vqlm.data_prep.sources.arrays import array_shards
from vqlm.data_prep.sources.caption_files import explained_file
from vqlm.data_prep.sources.files_of_folder import files_below
from vqlm.data_prep.sources.folder import METADATA, read_folder, shards_of_content
from vqlm.data_prep.sources.openmoji import ATTRIBUTION, SPLITS, openmoji_shards
from vqlm.data_prep.sources.rows import TABLE_ROWS, Shard, join_shards, kind_of_other
from vqlm.data_prep.sources.tables import count_rows, has_picture_column, hub_shards, parquet_shards
from vqlm.data_prep.sources.webdataset import count_members, tar_shards, unique_names
from vqlm.data_prep.splits import given_split, split_rule, splits_of_folders
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import NOTICE_FILE

SAVED_DATASET = ("state.json", "dataset_dict.json")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


def load_collection(
    data: str, image_size: int = 64, config: CollectionConfig | None = None, needs_captions: bool = True
) -> Collection:
    """Open a collection. Only names, captions and sizes are read; with `drop_copies` every picture is decoded once.

    A file `NOTICE` beside the pictures holds their licence lines, which every model trained on them carries.

    Args:
        data: one of the forms in `DATA_HELP`, or several with " + " between them; the keys of each then begin with its
            name.
        image_size: side in pixels at which OpenMoji is drawn; other pictures keep their size.
        config: how the collection is read.
        needs_captions: whether a picture without a caption is unusable; if not, its caption is "".

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
        collections = {name: _load_part(part, reading) for name, part in zip(part_names(parts), parts, strict=True)}
        collection = joined(collections, reading.config)
    if reading.config.drop_copies and collection.array_shape is None:
        return without_copies(collection)
    return collection


class Reading(NamedTuple):
    """The arguments of `load_collection` except the name of the collection."""

    image_size: int
    config: CollectionConfig
    needs_captions: bool


def _load_part(data: str, reading: Reading) -> Collection:
    collection = _open(data, reading)
    collection.attribution = collection.attribution or _notice_beside(data)
    return collection


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
    if os.path.isfile(place) and place.suffix == ".npz":
        _require_own_captions(data, config)
        shards, shape = array_shards(place, needs_captions)
        rule = split_rule(config.held_out, {})
        return Collection(_chosen(shards, reading), config, array_shape=shape, rule=rule)
    if os.path.isdir(place):
        return _of_folder(place, reading)
    files = [place] if os.path.isfile(place) else [Path(name) for name in glob.glob(data, recursive=True)]
    if collection := _of_files([path for path in files if os.path.isfile(path)], reading):
        return collection
    raise UserError(f"`data` must be {DATA_HELP[:-1]}; {data!r} is none of them.")


def _notice_beside(data: str) -> str | None:
    place = Path(data)
    notice = (place if os.path.isdir(place) else place.parent) / NOTICE_FILE
    if not os.path.isfile(notice):
        return None
    with explained_file(notice):
        content = notice.read_bytes()
    try:
        return content.decode("utf-8-sig").strip() or None
    except UnicodeDecodeError:  # the licence of an old package; in Latin-1 every byte is a character
        return content.decode("latin-1").strip()


def _require_own_captions(place: object, config: CollectionConfig) -> None:
    """Raises UserError for settings of file names and caption files, which have no effect on `place`."""
    for name, default in (("captions_from", "files"), ("caption_lines", "all")):
        if (value := getattr(config, name)) != default:
            raise UserError(f"`{name}` {value} has no effect on {place}, which has its own captions; leave it out.")


def _chosen(shards: list[Shard], reading: Reading) -> list[Shard]:
    """The shards with only those rows that the settings want."""
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
    shards = _chosen(shards_of_content(folder, content), reading)
    told = (NO_WORDS, no_line(config.caption_lines))
    notes = tuple(f"{content.kinds[kind]:,} {kind}" for kind in told if content.kinds[kind])
    count = partial(Counter, content.kinds)
    return Collection(
        shards,
        config,
        rule=split_rule(config.held_out, splits_of_folders(content.entries), content.splits),
        count_files=count,
        notes=notes,
    )


def _of_files(paths: list[Path], reading: Reading, is_chosen: bool = True) -> Collection | None:
    """The archives among `paths`, else the tables; None if there are neither. Without `is_chosen`, where no person
    named the files, a table counts only if it holds pictures."""
    config = reading.config
    paths = sorted(path for path in paths if not is_system_file(path.name))
    tars = [path for path in paths if path.name.lower().endswith(TAR_SUFFIXES) and path.is_file()]
    tables = [path for path in paths if path.suffix.lower() == ".parquet" and path.is_file()]
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
    """The split of each file whose name, or the name of a folder around it, is that of a split."""
    common = os.path.commonpath([path.parent for path in names.values()])
    given = {}
    for name, path in names.items():
        folders = reversed(Path(os.path.relpath(path.parent, common)).parts)
        if split := given_split(path.name.partition(".")[0], *folders):
            given[name] = split
    return given
