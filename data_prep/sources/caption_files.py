"""Files that name pictures and their captions: CSV, JSON lines and Parquet tables, and the two forms of Flickr8k.

Every reader is strict: what it cannot understand is a UserError that names the line.
"""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from vqlm.data_prep.sources.columns import pick_columns
from vqlm.data_prep.sources.rows import CAPTION_COLUMNS, PICTURE_COLUMNS
from vqlm.training.errors import UserError

DELIMITERS = ",;\t|"
MAX_FIELD = 2**31 - 1  # characters; the limit of the csv module is 131,072


class Named(NamedTuple):
    """One row: where it stands in its file, the name of a picture and its caption or captions, neither checked."""

    place: str
    name: Any
    captions: Any


def read_table(path: Path, columns: tuple[str | None, str | None]) -> list[Named]:
    """The rows of a `.csv`, `.jsonl` or `.parquet` file; `columns` as in `pick_columns`.

    Raises UserError for a file that cannot be understood, has no rows or lacks the columns.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    rows = list(readers[path.suffix.lower()](path, columns))
    if not rows:
        raise UserError(f"{path} holds no rows; write one row per picture, with file_name and caption.")
    return rows


def read_flickr(path: Path) -> list[Named]:
    """Lines `image,caption` under that header, or lines `image#number<tab>caption`; several per picture.

    Raises UserError for a file of neither form.
    """
    rows: list[Named] = []
    if _has_tabs(path):
        for number, row in _csv_rows(path, "\t", has_quotes=False):
            if len(row) < 2:
                raise UserError(f"{path}, line {number} has no caption: {row[0][:60]!r}; write image<tab>caption.")
            rows.append(Named(f"line {number}", row[0].strip().partition("#")[0], "\t".join(row[1:])))
        return rows
    header = None
    delimiter = _delimiter(path, (None, None))
    for number, row in _csv_rows(path, delimiter):
        if header is None:
            header = [name.strip().lower() for name in row]
            if header[:2] != ["image", "caption"]:
                start = delimiter.join(row)[:60]
                raise UserError(f"{path} must begin with the line image,caption; it begins with {start!r}.")
        elif len(row) < 2:
            raise UserError(f"{path}, line {number} has no caption: {row[0][:60]!r}; write image,caption.")
        else:
            # A caption may hold commas outside quotes: it is everything after the first one.
            rows.append(Named(f"line {number}", row[0].strip(), _unquoted(delimiter.join(row[1:]))))
    if header is None:
        raise UserError(f"{path} must begin with the line image,caption; it is empty.")
    return rows


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark."""
    with explained_file(path):
        return path.read_text(encoding="utf-8-sig")


@contextmanager
def explained_file(path: Path) -> Iterator[None]:
    """A UserError for a file that cannot be read, or is not UTF-8."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); check its permissions.") from None


def _read_csv(path: Path, columns: tuple[str | None, str | None]) -> Iterator[Named]:
    delimiter = _delimiter(path, columns)
    header: list[str] | None = None
    picked = ("", "")
    for number, row in _csv_rows(path, delimiter, skipinitialspace=True):
        if header is None:
            header = [name.strip() for name in row]
            picked = pick_columns(str(path), header, *columns)
            continue
        if any(row[len(header) :]):
            raise UserError(
                f"{path}, line {number}: the row of {row[0]} has too many commas; put its caption in double quotes."
                if delimiter == ","
                else f"{path}, line {number}: the row of {row[0]} has more fields than the header; put its caption in "
                "double quotes."
            )
        named = dict(zip(header, row, strict=False))
        yield Named(f"line {number}", named.get(picked[0]), named.get(picked[1]))


def _delimiter(path: Path, columns: tuple[str | None, str | None]) -> str:
    """The delimiter with which the first line holds most of the column names that are looked for."""
    wanted = {*PICTURE_COLUMNS, *CAPTION_COLUMNS, *columns}
    with explained_file(path), path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline(MAX_FIELD)

    def known_names(delimiter: str) -> int:
        return len(wanted & {name.strip(' \r\n"') for name in first.split(delimiter)})

    return max(DELIMITERS, key=known_names)


def _csv_rows(
    path: Path, delimiter: str, has_quotes: bool = True, skipinitialspace: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line and fields of each row that is not blank."""
    limit = csv.field_size_limit(MAX_FIELD)
    try:
        with explained_file(path), path.open(encoding="utf-8-sig", newline="") as file:
            quoting = csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE
            reader = csv.reader(
                file, delimiter=delimiter, quoting=quoting, skipinitialspace=skipinitialspace, strict=True
            )
            number = 1
            try:
                for row in reader:
                    if any(field.strip() for field in row):
                        yield number, row
                    number = reader.line_num + 1
            except csv.Error as error:
                raise UserError(
                    f"{path}, line {number} is not valid CSV ({error}); put a caption that holds quotes into double "
                    'quotes and write each quote inside it twice, as "a ""big"" cat".'
                ) from None
    finally:
        csv.field_size_limit(limit)


def _has_tabs(path: Path) -> bool:
    if path.name.lower().endswith(".token.txt"):
        return True
    return "\t" in read_text(path).lstrip().partition("\n")[0]


def _unquoted(caption: str) -> str:
    caption = caption.strip()
    if len(caption) > 1 and caption.startswith('"') and caption.endswith('"'):
        return caption[1:-1].replace('""', '"')
    return caption


def _read_jsonl(path: Path, columns: tuple[str | None, str | None]) -> Iterator[Named]:
    picked = None
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else f"{type(error).__name__}: {error}"
            raise UserError(f"{path}, line {number} is not JSON ({reason}); write one object per line.") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is not an object with file_name and caption, found {line[:40]}.")
        picked = picked or pick_columns(str(path), list(row), *columns)
        yield Named(f"line {number}", row.get(picked[0]), row.get(picked[1]))


def _read_parquet(path: Path, columns: tuple[str | None, str | None]) -> Iterator[Named]:
    try:
        picked = pick_columns(str(path), pyarrow.parquet.read_schema(path).names, *columns)
        rows = pyarrow.parquet.read_table(path, columns=list(picked)).to_pylist()
    except (pyarrow.ArrowException, OSError, OverflowError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read as Parquet ({error}); write it again.") from None
    for number, row in enumerate(rows, start=1):
        yield Named(f"row {number}", row[picked[0]], row[picked[1]])
