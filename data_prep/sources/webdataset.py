"""WebDataset tar files: a picture and its `.txt` or `.json` share a stem and follow one another."""

import functools
import gzip
import json
import os
import tarfile
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

from vqlm.data_prep.rows import CAPTION_COLUMNS, PICTURE_SUFFIXES, Row, Shard, Unusable, digest_of, row_or_reason

BLOCK = 512


def tar_shards(paths: list[Path], caption_column: str | None = None) -> list[Shard]:
    """One shard per tar file, compressed or not."""
    read = functools.partial(read_tar, caption_column=caption_column)
    return [
        Shard(path.name, functools.partial(read, path), digest_of([path.name, path.stat().st_size]))
        for path in sorted(paths)
    ]


def read_tar(path: Path, caption_column: str | None = None) -> Iterator[Row | Unusable]:
    """Rows with the keys `name of the tar/stem`. A cut archive gives the rows before the cut, then one Unusable."""
    seen: set[str] = set()
    files: dict[str, bytes] = {}
    stem = None
    reason = None
    try:
        for name, content in _members(path):
            folder, slash, base = name.rpartition("/")
            name, _, suffix = base.partition(".")
            if folder + slash + name != stem:
                if stem is not None:
                    yield _row(path, stem, files, seen, caption_column)
                stem, files = folder + slash + name, {}
            files["." + suffix.lower()] = content
        if stem is not None:
            yield _row(path, stem, files, seen, caption_column)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        reason = str(error)
    if reason is not None:
        if stem is not None and isinstance(row := _row(path, stem, files, seen, caption_column), Row):
            yield row  # else it lies across the cut
        yield Unusable(path.name, f"the archive {path} ends or breaks here ({reason}): copy it again")


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file; what is hidden is left out."""
    with path.open("rb") if path.suffix == ".tar" else gzip.open(path) as file:
        for name, content in _plain_members(file):
            if not name.rpartition("/")[2].startswith("."):
                yield name, content


def _plain_members(file: BufferedIOBase) -> Iterator[tuple[str, bytes]]:
    """By their headers (POSIX.1-1988, ustar): tarfile takes longer for one than Pillow takes to decode a small picture.
    From the first header that is no plain file's or folder's on, tarfile reads the rest."""
    while True:
        start = file.tell()
        header = file.read(BLOCK)
        if not any(header) and len(header) == BLOCK:
            return
        if len(header) < BLOCK:  # a cut right behind a member is silent: only the end mark's absence tells
            raise EOFError(f"{len(header)} bytes where a header of {BLOCK} or the end mark must be")
        # The checksum's own eight bytes count as spaces.
        checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        stated = header[148:156].split(b"\0")[0].strip()
        is_known = header[156:157] in (b"0", b"\0", b"5") and not header[124] & 0x80
        if not is_known or not stated.isdigit() or int(stated, 8) != checksum:
            file.seek(start)
            yield from _other_members(file)
            return
        length = int(header[124:136].split(b"\0")[0].strip() or b"0", 8)
        name = header[:100].split(b"\0")[0]
        if prefix := header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b"":
            name = prefix + b"/" + name
        content = file.read(length)
        if len(content) < length:
            raise EOFError(f"{name.decode(errors='replace')} has {length} bytes, {len(content)} are there")
        file.seek(-length % BLOCK, os.SEEK_CUR)
        if header[156:157] != b"5":
            yield name.decode("utf-8", "surrogateescape"), content


def _other_members(file: BufferedIOBase) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # what was read is not kept
            if member.isfile():
                content = archive.extractfile(member).read()  # type: ignore[union-attr]
                if len(content) < member.size:
                    raise EOFError(f"{member.name} has {member.size} bytes, {len(content)} are there")
                yield member.name, content


def _row(path: Path, stem: str, files: dict[str, bytes], seen: set[str], caption_column: str | None) -> Row | Unusable:
    key = f"{path.name}/{stem}"
    if stem in seen:
        return Unusable(key, "its stem occurs twice in the archive")
    seen.add(stem)
    picture = next((content for suffix, content in files.items() if suffix.endswith(PICTURE_SUFFIXES)), None)
    if picture is None:
        return Unusable(key, f"it has no picture, only {', '.join(sorted(files))}")
    if ".json" in files and (caption_column is not None or ".txt" not in files):
        try:
            described = json.loads(files[".json"])
        except ValueError as error:  # bytes that are no UTF-8 among them
            return Unusable(key, f"its .json cannot be read ({error})")
        if not isinstance(described, dict):
            return Unusable(key, f"its .json must be an object with a caption, found {described!r:.40}")
        wanted = [caption_column] if caption_column else CAPTION_COLUMNS
        name = next((column for column in wanted if column in described), None)
        if name is None:
            return Unusable(key, f"its .json has no {wanted[0]}, only {', '.join(map(str, described)) or 'nothing'}")
        return row_or_reason(key, picture, described[name])
    if ".txt" not in files:
        return Unusable(key, f"it has no caption (.txt or .json), only {', '.join(sorted(files))}")
    return row_or_reason(key, picture, files[".txt"].splitlines() or "")
