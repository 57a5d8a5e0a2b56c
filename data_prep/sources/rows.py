"""The form that every source of pictures gives: shards of captioned rows."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from vqlm.data_prep.captions.wording import half_character, is_visible, normalize_caption

CAPTION_COLUMNS = ("caption", "captions", "text", "texts")
PICTURE_COLUMNS = ("image", "file_name", "file", "picture", "img")


# Kinds of files that sources count, beside others.
LEFT_OUT = "pictures that no file with captions names, left out"
OTHER = "other files, "  # and their suffix
SYSTEM = "hidden files and folders, files of the system"
SPECIAL = "pipes and devices"
TABLE_ROWS = "rows of tables"


def kind_of_other(name: str) -> str:
    """The kind of a file that is neither picture nor caption."""
    return f"{OTHER}{PurePosixPath(name).suffix.lower() or 'without a suffix'}"


@dataclass(frozen=True)
class Row:
    """A picture that is not yet decoded, with at least one caption.

    key: names it in its collection, the same on every machine. image: bytes or path of a picture file, or an array
    (C, *shape).
    """

    key: str
    image: bytes | Path | np.ndarray
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Unusable:
    """A row that cannot be used, and the reason, for people.

    is_left_out: a setting leaves it out, nothing is wrong with it. image: its picture, if only the caption is missing.
    """

    key: str
    reason: str
    is_left_out: bool = False
    image: bytes | Path | np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self):
        # Both are written as UTF-8, which cannot hold every name and every error.
        for name in ("key", "reason"):
            text = getattr(self, name).encode("utf-8", "backslashreplace").decode()
            object.__setattr__(self, name, text)


class NoCaption(str):
    """Stands where captions should be; the text is the reason."""


class MissingCaption(NoCaption):
    """Of a picture that is there and lacks only its caption."""


@dataclass(frozen=True)
class Shard:
    """A part of a collection that is read, encoded and written as one.

    Args:
        name: unique in the collection and stable.
        read: yields the rows in a fixed order; an error in one row does not end it.
        stamp: changes whenever the content changes.
    """

    name: str
    read: Callable[[], Iterator[Row | Unusable]]
    stamp: str


def row_or_reason(key: str, image: bytes | Path | np.ndarray, captions: object) -> Row | Unusable:
    """The row with its captions, one line each, or the reason why they cannot be used, with the picture."""
    row = _with_captions(key, image, captions)
    return replace(row, image=image) if isinstance(row, Unusable) else row


def _with_captions(key: str, image: bytes | Path | np.ndarray, captions: object) -> Row | Unusable:
    texts = [captions] if isinstance(captions, str | bytes) or captions is None else captions
    if not isinstance(texts, list | tuple | np.ndarray):
        return Unusable(key, f"its caption must be text, found {captions!r:.40}")
    cleaned = []
    for text in texts:
        if isinstance(text, bytes):
            try:
                text = text.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                return Unusable(key, f"its caption is not UTF-8 (byte {error.start})")
        if not isinstance(text, str | None):
            return Unusable(key, f"its caption must be text, found {text!r:.40}")
        if text and "\0" in text:
            return Unusable(key, "its caption holds a NUL byte; is it text in UTF-8?")
        if text and (half := half_character(text)):
            return Unusable(key, f"its caption holds {half}, half of a character, which UTF-8 cannot hold")
        if (text := normalize_caption(text or "")) and is_visible(text):
            cleaned.append(text)
    if not cleaned:
        return Unusable(key, "its caption is empty")
    return Row(key, image, tuple(cleaned))


def digest_of(parts: Iterable[object]) -> str:
    """16 hex digits of a hash of the parts, in order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(part).encode("utf-8", "backslashreplace") + b"\0")
    return digest.hexdigest()[:16]


def stamp_of_file(name: str, path: Path, *parts: object) -> str:
    """A stamp for `Shard`: 16 hex digits of the name, size and modification time of a file, and further parts."""
    status = path.stat()
    return digest_of([name, status.st_size, status.st_mtime_ns, *parts])


# The files of a prepared set stay open while it is used, which limits their number.
MAX_SHARDS = 256


def rows_per_shard(count: int) -> int:
    """Rows per shard of a collection of `count` rows: few enough to share a small collection among processes and to
    lose little when a run is killed, many enough for at most `MAX_SHARDS`."""
    return max(256, min(8192, count // 16), -(-count // MAX_SHARDS))


def join_shards(shards: list[Shard]) -> list[Shard]:
    """At most `MAX_SHARDS` shards: neighbours are joined."""
    size = -(-len(shards) // MAX_SHARDS)
    if size <= 1:
        return shards
    runs = [shards[start : start + size] for start in range(0, len(shards), size)]
    return [
        Shard(
            run[0].name, partial(read_all, run), digest_of(part for shard in run for part in (shard.name, shard.stamp))
        )
        for run in runs
    ]


def read_all(shards: list[Shard]) -> Iterator[Row | Unusable]:
    """The rows of all shards, one shard after the other."""
    for shard in shards:
        yield from shard.read()
