"""WebDataset tar files: a picture and its `.txt` or `.json` under one stem, one after the other."""

import functools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from data_prep.rows import CAPTION_COLUMNS, PICTURE_SUFFIXES, Row, Shard, Unusable, digest_of, row_or_reason


def tar_shards(paths: list[Path], caption_column: str | None = None) -> list[Shard]:
    """One shard a tar file, compressed or not."""
    read = functools.partial(read_tar, caption_column=caption_column)
    return [
        Shard(path.name, functools.partial(read, path), digest_of([path.name, path.stat().st_size]))
        for path in sorted(paths)
    ]


def read_tar(path: Path, caption_column: str | None = None) -> Iterator[Row | Unusable]:
    """Rows keyed `tar's name/stem`. An archive that is cut gives the rows before the cut, then says so."""
    seen: set[str] = set()
    files: dict[str, bytes] = {}
    stem = None
    reason = None
    try:
        for name, content in _members(path):
            folder, slash, base = name.rpartition("/")
            own, _, suffix = base.partition(".")
            if folder + slash + own != stem:
                if stem is not None:
                    yield _row(path, stem, files, seen, caption_column)
                stem, files = folder + slash + own, {}
            files["." + suffix.lower()] = content
        if stem is not None:
            yield _row(path, stem, files, seen, caption_column)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        reason = str(error)
    if reason is not None:  # the sample at hand may lack its picture or its caption
        yield Unusable(f"{path.name}/{stem or ''}", f"the archive {path} ends or breaks here ({reason}): copy it anew")


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    is_plain = path.suffix == ".tar"
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:" if is_plain else "r|*") as archive:
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # what was read is not kept
            if not member.isfile() or member.name.rpartition("/")[2].startswith("."):
                continue
            if is_plain:  # several times as fast as `extractfile`
                file.seek(member.offset_data)
                content = file.read(member.size)
            else:
                content = archive.extractfile(member).read()  # type: ignore[union-attr]
            if len(content) < member.size:
                raise EOFError(f"{member.name} has {member.size} bytes, {len(content)} are there")
            yield member.name, content
        # A cut right behind a member is silent: only the end mark's absence tells.
        if is_plain and archive.offset >= path.stat().st_size:
            raise EOFError("it has no end mark")


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
