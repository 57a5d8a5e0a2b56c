"""A folder of pictures with captions.

Captions are looked for in this order: `metadata.csv`, `.jsonl` or `.parquet` (Hugging Face ImageFolder, in the folder
or in folders inside it), `captions.txt` or `*.token.txt` (Flickr8k), a `.txt` of the same stem beside each picture, the
names of class folders.
"""

import csv
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
from vqlm.data_prep.columns import pick_columns
from vqlm.data_prep.rows import PICTURE_SUFFIXES, Row, Shard, Unusable, digest_of, row_or_reason, rows_per_shard
from vqlm.training.errors import UserError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FLICKR = ("captions.txt", "captions.csv", "*.token.txt")
CLASS_TEMPLATE_HINT = 'or set `class_template` to "a photo of a {}" if its folders are classes'

Entry = tuple[str, Any]  # name relative to the folder; caption or captions, not checked


def folder_shards(
    folder: Path, class_template: str | None = None, columns: tuple[str | None, str | None] = (None, None)
) -> list[Shard]:
    """The captioned pictures of `folder`, sorted by name.

    `columns` are the names of the picture and the caption column of a metadata file, None for the usual names.
    Raises UserError for a folder without pictures or captions, or a caption file that cannot be understood.
    """
    entries = sorted(read_entries(folder, class_template, columns).items())
    size = rows_per_shard(len(entries))
    parts = [entries[start : start + size] for start in range(0, len(entries), size)]
    return [
        Shard(f"rows-{number:06}", functools.partial(_read, folder, part), _stamp(folder, part))
        for number, part in enumerate(parts)
    ]


def read_entries(folder: Path, class_template: str | None, columns: tuple[str | None, str | None]) -> dict[str, Any]:
    """Caption or captions by file name relative to the folder, not checked."""
    files = set(_files_below(folder))
    if metadata := sorted(name for name in files if name.rpartition("/")[2] in METADATA):
        return _from_metadata(folder, metadata, columns)
    pictures = sorted(name for name in files if Path(name).suffix.lower() in PICTURE_SUFFIXES)
    if not pictures:
        raise UserError(f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)}); check the path.")
    if flickr := next((path for pattern in FLICKR for path in sorted(folder.glob(pattern))), None):
        return _from_flickr(folder, flickr, pictures)
    if class_template is not None:
        return _from_classes(folder, class_template, pictures)
    missing = [name for name in pictures if str(Path(name).with_suffix(".txt")) not in files]
    if len(missing) == len(pictures):
        raise UserError(
            f"{folder} has {len(pictures)} pictures without a caption; write metadata.csv with the columns file_name "
            f"and caption, or a .txt of the same name beside each picture, {CLASS_TEMPLATE_HINT}."
        )
    captioned = {name: _lines(folder / Path(name).with_suffix(".txt")) for name in set(pictures).difference(missing)}
    return captioned | dict.fromkeys(missing, _Missing("it has no caption: there is no .txt of its name beside it"))


class _Missing(str):
    """Stands where a caption should be; the text says why there is none."""


def _read(folder: Path, entries: list[Entry]) -> Iterator[Row | Unusable]:
    for name, captions in entries:
        if isinstance(captions, _Missing):
            yield Unusable(name, str(captions))
        elif not (folder / name).is_file():
            yield Unusable(name, f"it is named in the captions and is not in {folder}")
        else:
            yield row_or_reason(name, folder / name, captions)


def _stamp(folder: Path, entries: list[Entry]) -> str:
    def size(name: str) -> int:
        try:
            return os.stat(folder / name).st_size
        except OSError:
            return -1

    return digest_of((name, captions, size(name)) for name, captions in entries)


def _files_below(folder: Path) -> Iterator[str]:
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        inside = os.path.relpath(place, folder)
        for name in names:
            yield name if inside == "." else f"{inside}/{name}".replace(os.sep, "/")


def _from_metadata(folder: Path, metadata: list[str], wanted: tuple[str | None, str | None]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name in metadata:
        path = folder / name
        rows = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}[path.suffix](path)
        if not rows:
            raise UserError(f"{path} holds no rows; write one row per picture, with file_name and caption.")
        picture, caption = pick_columns(str(path), [name for name in rows[0] if name is not None], *wanted)
        for row in rows:
            if None in row:  # where csv puts what has no column
                raise UserError(
                    f"{path}: the row of {row[picture]} has too many commas; put its caption in double quotes."
                )
            if not isinstance(row.get(picture), str) or not row[picture]:
                raise UserError(f"{path} has a row whose {picture} names no file: {row!r:.80}; correct or remove it.")
            relative = Path(os.path.relpath(path.parent / row[picture], folder)).as_posix()
            _add(entries, relative, row.get(caption))
    return entries


def _add(entries: dict[str, Any], name: str, captions: Any) -> None:
    """Add an entry; a name that is known gets further captions."""
    if name in entries:
        known = entries[name] if isinstance(entries[name], list) else [entries[name]]
        captions = known + (captions if isinstance(captions, list) else [captions])
    entries[name] = captions


def _read_csv(path: Path) -> list[dict]:
    return list(csv.DictReader(read_text(path).splitlines(keepends=True)))


def _read_jsonl(path: Path) -> list[dict]:
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number} is not JSON ({error.msg}); write one object per line.") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is not an object with file_name and caption, found {line[:40]}.")
        rows.append(row)
    return rows


def _read_parquet(path: Path) -> list[dict]:
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet ({error}); write it again.") from None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None


def _from_flickr(folder: Path, path: Path, pictures: list[str]) -> dict[str, Any]:
    """Lines `image,caption` under that header, or lines `image#number<tab>caption`; several per picture."""
    by_base: dict[str, str] = {}
    for name in pictures:  # the captions give names without their folder, such as Images
        by_base.setdefault(name.rpartition("/")[2], name)
    entries: dict[str, Any] = {}
    lines = read_text(path).splitlines()
    has_tabs = path.name.endswith(".token.txt") or (lines and "\t" in lines[0])
    if not has_tabs and (not lines or [word.strip() for word in lines[0].split(",")][:2] != ["image", "caption"]):
        raise UserError(f"{path} must begin with the line image,caption; it begins with {(lines or [''])[0][:60]!r}.")
    for number, line in enumerate(lines if has_tabs else lines[1:], start=1 if has_tabs else 2):
        # A caption may hold commas, quoted or not: the caption is everything after the first comma.
        name, separator, caption = line.partition("\t" if has_tabs else ",")
        if not line.strip():
            continue
        if not separator:
            raise UserError(f"{path}, line {number} has no caption: {line[:60]!r}; write image,caption.")
        if caption.startswith('"') and caption.endswith('"') and len(caption) > 1:
            caption = caption[1:-1].replace('""', '"')
        name = name.strip().partition("#")[0] if has_tabs else name.strip()
        _add(entries, by_base.get(name, name), caption)
    return entries


def _from_classes(folder: Path, template: str, pictures: list[str]) -> dict[str, Any]:
    if "{}" not in template:
        raise UserError(
            f'`class_template` must hold {{}} where the class goes, as "a photo of a {{}}"; found {template!r}.'
        )
    if loose := [name for name in pictures if "/" not in name]:
        raise UserError(
            f"{folder}: {loose[0]} lies in no class folder; move it into one, or leave `class_template` out."
        )
    return {name: template.format(Path(name).parent.name.replace("_", " ")) for name in pictures}


def _lines(path: Path) -> list[bytes] | _Missing:
    """One caption per line, as bytes: a file in another encoding makes one row unusable, not the whole folder."""
    content = path.read_bytes()
    return content.splitlines() if content.strip() else [b""]
