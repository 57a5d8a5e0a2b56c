"""Tables whose rows hold pictures: Parquet files, and data sets of the `datasets` library."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import ClassLabel, Dataset, DatasetDict, Image, get_dataset_split_names, load_dataset, load_from_disk
from vqlm.data_prep.columns import pick_columns
from vqlm.data_prep.rows import Row, Shard, Unusable, digest_of, row_or_reason, rows_per_shard
from vqlm.training.errors import UserError

BATCH = 64
KEY_COLUMNS = ("key", "__key__", "id", "file_name")


def parquet_shards(paths: list[Path], columns: tuple[str | None, str | None] = (None, None)) -> list[Shard]:
    """The shards of Parquet files: runs of row groups, which are read in parts.

    `columns` as in `pick_columns`. Raises UserError for a file that is not Parquet, or lacks the columns.
    """
    shards = []
    for path in sorted(paths):
        try:
            metadata = pyarrow.parquet.read_metadata(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path} cannot be read as Parquet ({error}); copy or write it again.") from None
        picked = pick_columns(str(path), metadata.schema.to_arrow_schema().names, *columns)
        groups, start, rows = [], 0, 0
        for number in range(metadata.num_row_groups):
            groups.append(number)
            rows += metadata.row_group(number).num_rows
            if rows >= rows_per_shard(metadata.num_rows) or number + 1 == metadata.num_row_groups:
                name = f"{path.name}-{start:09}"
                read = functools.partial(_read_parquet, path, groups, start, picked)
                shards.append(Shard(name, read, digest_of([name, rows, path.stat().st_size])))
                groups, start, rows = [], start + rows, 0
    return shards


def _read_parquet(path: Path, groups: list[int], start: int, picked: tuple[str, str]) -> Iterator[Row | Unusable]:
    number = start
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            keys = [name for name in KEY_COLUMNS if name in file.schema_arrow.names]
            wanted = [*dict.fromkeys([*picked, *keys[:1]])]
            for batch in file.iter_batches(BATCH, groups, wanted):
                for row in batch.to_pylist():
                    yield _row(f"{path.name}/{row[keys[0]] if keys else number}", row, *picked, path.parent)
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        yield Unusable(f"{path.name}/{number}", f"{path} breaks here ({error}): copy it again")


def hub_shards(
    name: str, columns: tuple[str | None, str | None] = (None, None), class_template: str | None = None
) -> list[Shard]:
    """The shards of `NAME[:split]` on the Hugging Face hub, or of a local folder that `datasets` can load.

    With `class_template` a column of class labels gives the captions. Raises UserError for a name that cannot be
    loaded, or a missing split or column.
    """
    rows = _load(name)
    features = rows.features
    picture = next((column for column, kind in features.items() if isinstance(kind, Image)), None)
    caption = None
    if class_template is not None:
        caption = next((column for column, kind in features.items() if isinstance(kind, ClassLabel)), None)
    picked = pick_columns(f"hf:{name}", rows.column_names, columns[0] or picture, columns[1] or caption)
    if isinstance(features[picked[0]], Image):
        rows = rows.cast_column(picked[0], Image(decode=False))
    key = next((column for column in KEY_COLUMNS if column in rows.column_names), None)
    rows = rows.select_columns([*dict.fromkeys([*picked, *([key] if key else [])])])
    classes = features[picked[1]].names if isinstance(features[picked[1]], ClassLabel) else None
    if classes is not None and class_template is None:
        raise UserError(
            f'hf:{name}: {picked[1]} holds classes, not captions; set `class_template` to "a photo of a {{}}".'
        )
    size = rows_per_shard(len(rows))
    stamp = f"{rows._fingerprint} {len(rows)}"
    read = functools.partial(_read_dataset, rows, picked, key, classes, class_template)
    return [
        Shard(f"rows-{start:09}", functools.partial(read, start, min(start + size, len(rows))), stamp)
        for start in range(0, len(rows), size)
    ]


def _load(name: str) -> Dataset:
    place, _, split = name.partition(":") if not Path(name).exists() else (name, "", "")
    try:
        if Path(place).is_dir() and any((Path(place) / file).exists() for file in ("state.json", "dataset_dict.json")):
            loaded: Any = load_from_disk(place)
        else:
            if not split:
                splits = [str(name) for name in get_dataset_split_names(place)]
                split = "train" if "train" in splits or len(splits) != 1 else splits[0]
            loaded = load_dataset(place, split=split)
    except Exception as error:  # the hub, the network and the builders raise many types
        raise UserError(
            f"hf:{name} cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:200]}); write "
            "hf:NAME[:split] of a data set on the hub, or of a folder that datasets can load."
        ) from None
    if isinstance(loaded, DatasetDict):
        split = split or ("train" if "train" in loaded else next(iter(loaded)))
        if split not in loaded:
            raise UserError(f"hf:{name} has no split {split!r}; it has {', '.join(map(str, loaded))}.")
        loaded = loaded[split]
    return loaded


def _read_dataset(
    rows: Dataset, picked: tuple[str, str], key: str | None, classes: list[str] | None, template: str | None,
    start: int, stop: int,
) -> Iterator[Row | Unusable]:  # fmt: skip
    for number in range(start, stop):
        row: dict[str, Any] = rows[number]
        if classes is not None and template is not None:
            row[picked[1]] = template.format(classes[row[picked[1]]].replace("_", " "))
        yield _row(str(row[key]) if key else str(number), row, *picked, Path())


def _row(key: str, row: dict[str, Any], picture: str, caption: str, folder: Path) -> Row | Unusable:
    image = row[picture]
    if isinstance(image, dict):
        image = image.get("bytes") if image.get("bytes") is not None else image.get("path")
    if isinstance(image, str):
        image = folder / image
    if not isinstance(image, bytes | Path):
        return Unusable(key, f"its {picture} holds no picture, found {image!r:.40}")
    return row_or_reason(key, image, row[caption])
