"""Tables whose rows hold pictures: Parquet files, and data sets of the `datasets` library."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import ClassLabel, Dataset, DatasetDict, Image, get_dataset_split_names, load_dataset, load_from_disk

from vqlm.data_prep.captions.names import caption_of, require_template
from vqlm.data_prep.pictures.file_kinds import key_of
from vqlm.data_prep.sources.columns import find_columns, pick_columns
from vqlm.data_prep.sources.rows import (
    PICTURE_COLUMNS,
    Row,
    Shard,
    Unusable,
    row_or_reason,
    rows_per_shard,
    stamp_of_file,
)
from vqlm.data_prep.sources.webdataset import unique_names
from vqlm.data_prep.splits import GIVEN_NAMES, TRAIN
from vqlm.training.errors import UserError

BATCH = 64
KEY_COLUMNS = ("key", "__key__", "id", "file_name")
# An id that this many rows share on average is no name of a picture but of something larger, such as its class.
MOST_CAPTIONS = 20


@dataclass(frozen=True)
class TableForm:
    """Columns of the picture, of the caption (None if there is none) and of the key (None to number the rows), and
    whether keys repeat."""

    picture: str
    caption: str | None
    key: str | None
    repeats: bool
    allow_outside_files: bool = False

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for column in (self.picture, self.caption, self.key) if column))

    def key_of_row(self, row: dict[str, Any], number: int) -> str:
        """A key that no other row of the table has."""
        name = None if self.key is None else row[self.key]
        if name is None:
            return str(number)
        return f"{key_of(str(name))} (row {number})" if self.repeats else key_of(str(name))


def parquet_shards(
    paths: list[Path],
    columns: tuple[str | None, str | None] = (None, None),
    allow_outside_files: bool = False,
    needs_captions: bool = True,
) -> list[Shard]:
    """The shards of Parquet files: runs of row groups, which are read in parts.

    `columns` as in `pick_columns`. Raises UserError for a file that is not Parquet, or lacks the columns; that of the
    captions may be missing without `needs_captions`.
    """
    shards = []
    for name, path in unique_names(paths).items():
        try:
            metadata = pyarrow.parquet.read_metadata(path)
            names = metadata.schema.to_arrow_schema().names
            picked = _picked(str(path), names, columns, needs_captions)
            key = next((column for column in KEY_COLUMNS if column in names), None)
            values = None if key is None else pyarrow.parquet.read_table(path, columns=[key])[key]
            form = TableForm(*picked, *_usable_key(key, values), allow_outside_files)
        except UserError:
            raise
        except Exception as error:  # pyarrow raises several types
            raise UserError(f"{path} cannot be read as Parquet ({error}); copy or write it again.") from None
        groups, start, rows = [], 0, 0
        for number in range(metadata.num_row_groups):
            groups.append(number)
            rows += metadata.row_group(number).num_rows
            if rows >= rows_per_shard(metadata.num_rows) or number + 1 == metadata.num_row_groups:
                part = f"{name}-{start:09}"
                read = functools.partial(_read_parquet, path, name, groups, start, form)
                shards.append(Shard(part, read, stamp_of_file(part, path, rows)))
                groups, start, rows = [], start + rows, 0
    return shards


def _picked(
    place: str, names: list[str], columns: tuple[str | None, str | None], needs_captions: bool
) -> tuple[str, str | None]:
    picture, caption = find_columns(names, *columns)
    if picture in names and caption is None and not needs_captions:
        return picture, None
    return pick_columns(place, names, *columns)


def has_picture_column(path: Path, image_column: str | None = None) -> bool:
    """Whether a Parquet file has a column of pictures, and not only of what was said about them elsewhere."""
    try:
        names = pyarrow.parquet.read_schema(path).names
    except Exception:  # reported when the file is opened as a table
        return True
    return bool({image_column, *PICTURE_COLUMNS} & set(names))


def count_rows(paths: list[Path]) -> int:
    """Rows of all these Parquet files."""
    return sum(pyarrow.parquet.read_metadata(path).num_rows for path in paths)


def _usable_key(key: str | None, values: pyarrow.ChunkedArray | None) -> tuple[str | None, bool]:
    """The key column, None where its values name no pictures, and whether values repeat."""
    if key is None or values is None or not len(values) or pyarrow.types.is_nested(values.type):
        return None, False
    distinct = len(values.drop_null().unique())
    if distinct * MOST_CAPTIONS < len(values):
        return None, False
    return key, distinct < len(values) - values.null_count


def _read_parquet(path: Path, name: str, groups: list[int], start: int, form: TableForm) -> Iterator[Row | Unusable]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except Exception as error:
        yield Unusable(f"{name}/{start}", f"{path} cannot be opened any more ({error})")
        return
    with file:
        for group in groups:
            number, size = start, file.metadata.row_group(group).num_rows
            start += size
            try:
                for row in _merged(_numbered_rows(file, group, number, form), form):
                    number = row[1] + 1
                    yield _row(f"{name}/{form.key_of_row(*row)}", row[0], form, path.parent)
            except Exception as error:  # of damaged pages, which pyarrow decodes while they are read
                reason = f"{path} breaks here ({error}), {start - number} rows are lost: copy it again"
                yield Unusable(f"{name}/{number}", reason)


def _numbered_rows(
    file: pyarrow.parquet.ParquetFile, group: int, number: int, form: TableForm
) -> Iterator[tuple[dict[str, Any], int]]:
    for batch in file.iter_batches(BATCH, [group], form.columns):
        for row in batch.to_pylist():
            yield row, number
            number += 1


def _merged(rows: Iterator[tuple[dict[str, Any], int]], form: TableForm) -> Iterator[tuple[dict[str, Any], int]]:
    """Neighbours with one key and one picture become a row with all their captions."""
    if not form.repeats or form.caption is None:
        yield from rows
        return
    last: tuple[dict[str, Any], int] | None = None
    for row, number in rows:
        if last is not None and row[form.key] is not None and all(  # type: ignore[index]
            row[column] == last[0][column] for column in form.columns if column != form.caption
        ):  # fmt: skip
            last[0][form.caption] = _listed(last[0][form.caption]) + _listed(row[form.caption])
            continue
        if last is not None:
            yield last
        last = row, number
    if last is not None:
        yield last


def _listed(captions: Any) -> list[Any]:
    return captions if isinstance(captions, list) else [captions]


def hub_shards(
    name: str,
    columns: tuple[str | None, str | None] = (None, None),
    class_template: str | None = None,
    needs_captions: bool = True,
) -> tuple[list[Shard], dict[str, str]]:
    """The shards of `NAME[:split]` on the Hugging Face hub, or of a local folder that `datasets` can load.

    Without a split, `train` is read and the held-out splits that are known by name; the split of the first part of
    each key is the second result. With `class_template` a column of class labels gives the captions. Raises UserError
    for a name that cannot be loaded, or a missing split or column.
    """
    if class_template is not None:
        require_template(class_template)
    shards, given = [], {}
    for split, rows in _load(name).items():
        prefix = "" if split == TRAIN or not split else f"{split} split/"
        if prefix:
            given[prefix[:-1]] = GIVEN_NAMES[split.lower()]
        shards += _split_shards(name, prefix, rows, columns, class_template, needs_captions)
    return shards, given | ({"train split": TRAIN} if given else {})


def _split_shards(
    name: str, prefix: str, rows: Dataset, columns: tuple[str | None, str | None], class_template: str | None,
    needs_captions: bool,
) -> list[Shard]:  # fmt: skip
    features = rows.features
    picture = next((column for column, kind in features.items() if isinstance(kind, Image)), None)
    caption = None
    if class_template is not None:
        caption = next((column for column, kind in features.items() if isinstance(kind, ClassLabel)), None)
    named = (columns[0] or picture, columns[1] or caption)
    picked = _picked(f"hf:{name}", rows.column_names, named, needs_captions)
    if isinstance(features[picked[0]], Image):
        rows = rows.cast_column(picked[0], Image(decode=False))
    key = next((column for column in KEY_COLUMNS if column in rows.column_names), None)
    values = None if key is None else rows.select_columns([key]).with_format("arrow")[:][key]  # type: ignore[index]
    form = TableForm(*picked, *_usable_key(key, values), allow_outside_files=True)  # what `datasets` named itself
    rows = rows.select_columns(form.columns)
    is_classes = picked[1] is not None and isinstance(features[picked[1]], ClassLabel)
    classes = features[picked[1]].names if is_classes else None
    if classes is not None and class_template is None and needs_captions:
        raise UserError(
            f'hf:{name}: {picked[1]} holds classes, not captions; set `class_template` to "a photo of a {{}}".'
        )
    size = rows_per_shard(len(rows))
    stamp = f"{rows._fingerprint} {len(rows)}"
    read = functools.partial(_read_dataset, rows, prefix, form, classes, class_template)
    return [
        Shard(f"{prefix}rows-{start:09}", functools.partial(read, start, min(start + size, len(rows))), stamp)
        for start in range(0, len(rows), size)
    ]


def _load(name: str) -> dict[str, Dataset]:
    """The chosen split under the name "", or all splits that are used by their names."""
    place, _, split = name.partition(":") if not os.path.exists(name) else (name, "", "")
    try:
        if os.path.isdir(place) and any((Path(place) / file).exists() for file in ("state.json", "dataset_dict.json")):
            loaded: Any = load_from_disk(place)
            if isinstance(loaded, Dataset):
                return {"": loaded}
        elif split:
            return {"": load_dataset(place, split=split)}  # type: ignore[dict-item]
        else:
            names = _used_splits([str(known) for known in get_dataset_split_names(place)])
            loaded = DatasetDict({known: load_dataset(place, split=known) for known in names})  # type: ignore[dict-item]
    except Exception as error:  # the hub, the network and the builders raise many types
        raise UserError(
            f"hf:{name} cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:200]}); write "
            "hf:NAME[:split] of a data set on the hub, or of a folder that datasets can load."
        ) from None
    if split and split not in loaded:
        raise UserError(f"hf:{name} has no split {split!r}; it has {', '.join(map(str, loaded))}.")
    if split:
        return {"": loaded[split]}
    used = _used_splits(list(map(str, loaded)))
    return {"": loaded[used[0]]} if len(used) == 1 else {known: loaded[known] for known in used}


def _used_splits(names: list[str]) -> list[str]:
    """`train` and the splits that are known to be held out; the first where there is no `train`."""
    if TRAIN not in names:
        return names[:1]
    return [TRAIN, *(name for name in names if GIVEN_NAMES.get(name.lower(), TRAIN) != TRAIN)]


def _read_dataset(
    rows: Dataset, prefix: str, form: TableForm, classes: list[str] | None, template: str | None,
    start: int, stop: int,
) -> Iterator[Row | Unusable]:  # fmt: skip
    def numbered() -> Iterator[tuple[dict[str, Any], int]]:
        for number in range(start, stop):
            row: dict[str, Any] = rows[number]
            if classes is not None and template is not None and form.caption is not None:
                label = row[form.caption]
                known = isinstance(label, int) and 0 <= label < len(classes)
                row[form.caption] = caption_of(template, "", classes[label]) if known else None
            yield row, number

    for row, number in _merged(numbered(), form):
        yield _row(prefix + form.key_of_row(row, number), row, form, Path())


def _row(key: str, row: dict[str, Any], form: TableForm, folder: Path) -> Row | Unusable:
    image = row[form.picture]
    if isinstance(image, dict):
        image = image.get("bytes") if image.get("bytes") is not None else image.get("path")
    if isinstance(image, str):
        name = image if os.path.exists(folder / image) else image.replace("\\", "/")
        relative = os.path.relpath(os.path.join(folder, name), folder) if "\0" not in name else name
        if relative.startswith("..") and not form.allow_outside_files:
            return Unusable(key, f"{image} is not in {folder}; set `allow_outside_files` if you trust the table")
        image = folder / name
    if not isinstance(image, bytes | Path):
        return Unusable(key, f"its {form.picture} holds no picture, found {image!r:.40}")
    return row_or_reason(key, image, None if form.caption is None else row[form.caption])
