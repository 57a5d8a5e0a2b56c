"""Reads tar archives member by member and reports what is damaged instead of ending there.

Headers are parsed and verified by the standard library (`tarfile.TarInfo.frombuf`). `tarfile.open` itself takes longer
per member than Pillow takes to decode a small picture, and ends without an error at a damaged header.
"""

import gzip
import os
import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

BLOCK = 512
# Larger members are skipped: no picture is as large, and a small compressed file can claim any size.
MAX_MEMBER = 2**30
GZIP_MAGIC = b"\x1f\x8b"
FOLDERS_AND_LINKS = (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE,
                     tarfile.BLKTYPE)  # fmt: skip
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Damage:
    """A part of an archive that cannot be read, and the reason. `is_end` where nothing after it can be read either."""

    reason: str
    is_end: bool = False


class _Cut(Exception):
    """The archive ends inside a member or before its end mark."""


def read_members(path: Path, with_content: bool = True) -> Iterator[Member | Damage]:
    """The files of a tar archive, compressed with gzip or not, in order; their contents empty on request.

    After a damaged header, reading continues at the next intact one. The end counts as proven only by its mark, two
    blocks of zeros with nothing but zeros after them, and for gzip by the checksum.
    """
    try:
        with path.open("rb") as file:
            is_gzip = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        with gzip.open(path) if is_gzip else path.open("rb") as file:
            yield from _Reader(file, with_content).members()
    except Exception as error:  # of the disk and of the decompressor, which raises several types
        yield Damage(f"{type(error).__name__}: {error}", is_end=True)


class _Reader:
    """Reads blocks and knows its position."""

    def __init__(self, file: BufferedIOBase | gzip.GzipFile, with_content: bool = True):
        self.file, self.position, self.with_content = file, 0, with_content
        self.pending = b""  # read from the file, not yet used

    def members(self) -> Iterator[Member | Damage]:
        try:
            yield from self._members()
        except _Cut as error:
            yield Damage(str(error), is_end=True)

    def _members(self) -> Iterator[Member | Damage]:
        long_name, settings = None, {}
        while True:
            start = self.position
            try:
                header = self._header()
            except tarfile.HeaderError as error:
                header = yield from self._resynchronized(f"damaged header at byte {start:,} ({error})")
                long_name, settings = None, {}
            if header is None:
                return
            if header.type in FOLDERS_AND_LINKS:
                long_name, settings = None, {}
                continue
            size = int(settings.get("size", header.size))
            if header.type == tarfile.GNUTYPE_LONGNAME:
                long_name = self._content(header.name, size).rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif header.type == tarfile.XHDTYPE:
                settings = _pax_settings(self._content(header.name, size))
            elif header.type in FILES:
                name = settings.get("path") or long_name or header.name
                if size > MAX_MEMBER:
                    self._skip(name, size)
                    yield Damage(f"{name} has {size:,} bytes, more than {MAX_MEMBER:,}")
                elif any(setting.startswith("GNU.sparse") for setting in settings):
                    self._skip(name, size)
                    yield Damage(f"{name} is a sparse file, which is not read")
                elif self.with_content:
                    yield Member(name, self._content(name, size))
                else:
                    self._skip(name, size)
                    yield Member(name, b"")
                long_name, settings = None, {}
            elif header.type == tarfile.GNUTYPE_SPARSE:
                self._skip(header.name, size)
                yield Damage(f"{header.name} is a sparse file, which is not read")
            else:  # long names of links, settings for the whole archive, and types of other programs
                self._skip(header.name, size)

    def _header(self) -> tarfile.TarInfo | None:
        """The next header, or None at the proven end. Raises tarfile.HeaderError for a damaged one."""
        start = self.position
        block = self._block(f"the end mark is missing at byte {start:,}")
        if any(block):
            return _parsed(block)
        rest = self._read(BLOCK)  # of the end mark; some programs write half of it
        while rest and rest.count(0) == len(rest):
            rest = self._read(2**20)
        if not rest:
            return None
        # Data after zeros: a header that was overwritten, or archives that were joined.
        zeros = (len(rest) - len(rest.lstrip(b"\0"))) // BLOCK * BLOCK
        self.pending = rest[zeros:] + self.pending
        self.position -= len(rest) - zeros
        raise tarfile.HeaderError("zeros with data after them")

    def _resynchronized(self, reason: str) -> Generator[Damage, None, tarfile.TarInfo | None]:
        """Reports the damage and returns the next intact header, None at the proven end."""
        while True:
            try:
                header = self._header()
            except tarfile.HeaderError:
                continue
            except _Cut:
                yield Damage(f"{reason}; nothing after it is intact", is_end=True)
                return None
            if header is None:
                yield Damage(f"{reason}; nothing after it is intact")
            else:
                yield Damage(f"{reason}; everything up to byte {self.position - BLOCK:,} is lost")
            return header

    def _content(self, name: str, size: int) -> bytes:
        if size > MAX_MEMBER:
            raise _Cut(f"{name} claims {size:,} bytes")
        content = self._read(size)
        if len(content) < size:
            raise _Cut(f"{name} has {size:,} bytes, {len(content):,} are there")
        self._skip_padding(name, size)
        return content

    def _skip(self, name: str, size: int) -> None:
        left = size
        if not isinstance(self.file, gzip.GzipFile) and size > 2 * BLOCK and not self.pending:
            self.file.seek(size - BLOCK, os.SEEK_CUR)  # beyond the end too, where the next read gives nothing
            self.position += size - BLOCK
            left = BLOCK
        while left:
            part = len(self._read(min(left, 2**20)))
            if not part:
                raise _Cut(f"{name} has {size:,} bytes, {size - left:,} are there")
            left -= part
        self._skip_padding(name, size)

    def _skip_padding(self, name: str, size: int) -> None:
        padding = -size % BLOCK
        if len(self._read(padding)) < padding:
            raise _Cut(f"the last block of {name} is cut")

    def _block(self, reason: str) -> bytes:
        block = self._read(BLOCK)
        if not block:
            raise _Cut(reason)
        if len(block) < BLOCK:
            raise _Cut(f"{len(block)} bytes where a header of {BLOCK} or the end mark must be")
        return block

    def _read(self, size: int) -> bytes:
        content, self.pending = self.pending[:size], self.pending[size:]
        if len(content) < size:
            content += self.file.read(size - len(content))
        self.position += len(content)
        return content


def _parsed(block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise
    except (ValueError, OverflowError) as error:
        raise tarfile.HeaderError(str(error)) from None
    if header.size < 0:
        raise tarfile.HeaderError("negative size")
    return header


def _pax_settings(content: bytes) -> dict[str, str]:
    """The records `length key=value` of a pax header (POSIX.1-2001)."""
    settings = {}
    while content.strip(b"\0"):
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(content):
            raise _Cut("a pax header is damaged")
        key, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        settings[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        content = content[int(length) :]
    if not settings.get("size", "0").isdigit():
        raise _Cut("a pax header is damaged")
    return settings
