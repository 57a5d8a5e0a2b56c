"""WebDataset tar files: a picture and its `.txt` or `.json` share a stem and follow one another."""

import functools
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vqlm.data_prep.captions.lines import chosen_lines
from vqlm.data_prep.captions.names import caption_of, require_template
from vqlm.data_prep.pictures.file_kinds import is_picture, is_system_file, key_of
from vqlm.data_prep.sources.rows import (
    CAPTION_COLUMNS,
    SYSTEM,
    Row,
    Shard,
    Unusable,
    kind_of_other,
    row_or_reason,
    stamp_of_file,
)
from vqlm.data_prep.sources.tar import Damage, read_members


@dataclass(frozen=True)
class SampleForm:
    """How the files of a sample become a row: the key of its caption in `.json`, the caption of a class in `.cls`,
    whether the words of its stem are its caption, and which lines of its `.txt` are."""

    caption_column: str | None = None
    class_template: str | None = None
    is_named: bool = False
    caption_lines: str = "all"


def tar_shards(
    paths: list[Path],
    caption_column: str | None = None,
    class_template: str | None = None,
    is_named: bool = False,
    caption_lines: str = "all",
) -> list[Shard]:
    """One shard per tar file, compressed or not. Files of one name in several folders are told apart by the folder."""
    if class_template is not None:
        require_template(class_template)
    form = SampleForm(caption_column, class_template, is_named, caption_lines)
    read = functools.partial(read_tar, form=form)
    return [
        Shard(name, functools.partial(read, path, name), stamp_of_file(name, path))
        for name, path in unique_names(paths).items()
    ]


def count_members(paths: list[Path]) -> Counter[str]:
    """How many files of each kind the archives hold."""
    kinds: Counter[str] = Counter({"archives": len(paths)})
    for path in paths:
        for member in read_members(path, with_content=False):
            if isinstance(member, Damage):
                kinds["damaged places in archives"] += 1
            elif is_system_file(member.name):
                kinds[SYSTEM] += 1
            elif is_picture(member.name):
                kinds["pictures"] += 1
            else:
                kinds[kind_of_other(member.name)] += 1
    return kinds


def unique_names(paths: list[Path]) -> dict[str, Path]:
    """Sorted paths by their file names; by their path below the common folder where a file name occurs twice."""
    paths = sorted(set(paths))
    names = [key_of(path.name) for path in paths]
    if len(set(names)) < len(names):
        common = os.path.commonpath([path.parent for path in paths])
        names = [key_of(Path(os.path.relpath(path, common)).as_posix()) for path in paths]
    return dict(zip(names, paths, strict=True))


def read_tar(path: Path, name: str, form: SampleForm) -> Iterator[Row | Unusable]:
    """Rows with the keys `name/stem`. Damage of the archive gives one Unusable, and the rest is read where possible."""
    seen: set[str] = set()
    files: dict[str, bytes] = {}
    stem = None
    damages = 0
    for member in read_members(path):
        if isinstance(member, Damage):
            # The sample before the damage may lack files that it had.
            if stem is not None and isinstance(row := _row(name, stem, files, seen, form), Row):
                yield row
            stem, files = None, {}
            damages += 1
            key = name if damages == 1 else f"{name} ({damages})"
            yield Unusable(key, f"the archive {path} ends or breaks here ({member.reason}): copy it again")
            continue
        if is_system_file(member.name):
            continue
        member_stem, suffix = _split(member.name)
        if member_stem != stem:
            if stem is not None:
                yield _row(name, stem, files, seen, form)
            stem, files = member_stem, {}
        files[suffix] = member.content
    if stem is not None:
        yield _row(name, stem, files, seen, form)


def _split(name: str) -> tuple[str, str]:
    """`a/000.seg.PNG` -> (`a/000`, `.seg.png`): a stem ends at the first dot of the file name."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, "." + suffix.lower()


def _row(name: str, stem: str, files: dict[str, bytes], seen: set[str], form: SampleForm) -> Row | Unusable:
    key = f"{name}/{key_of(stem)}"
    if stem in seen:
        return Unusable(key, "its stem occurs twice in the archive")
    seen.add(stem)
    listed = ", ".join(sorted(files))
    pictures = [suffix for suffix in files if is_picture("x" + suffix)]
    # `.jpg` is the picture; `.depth.png` and the like are only taken where nothing else is there.
    pictures = [suffix for suffix in pictures if suffix.count(".") == 1] or pictures
    if not pictures:
        return Unusable(key, f"it has no picture, only {listed}")
    if len(pictures) > 1:
        return Unusable(key, f"it has several pictures ({', '.join(sorted(pictures))}); keep one of them")
    row = _captioned(key, stem, files[pictures[0]], files, form)
    return replace(row, image=files[pictures[0]]) if isinstance(row, Unusable) else row


def _captioned(key: str, stem: str, picture: bytes, files: dict[str, bytes], form: SampleForm) -> Row | Unusable:
    if form.is_named:
        caption = caption_of(form.class_template or "{name}", stem)
        return row_or_reason(key, picture, caption) if caption else Unusable(key, "its name has no words")
    if ".json" in files and (form.caption_column is not None or ".txt" not in files):
        return _described(key, picture, files[".json"], form)
    if ".txt" in files:
        lines = files[".txt"].splitlines()
        captions = chosen_lines(lines, form.caption_lines)
        if not captions and any(line.strip() for line in lines):
            return Unusable(key, f"its .txt has no line in {form.caption_lines}")
        return row_or_reason(key, picture, captions or "")
    if ".cls" in files:
        return _classified(key, stem, picture, files[".cls"], form)
    return Unusable(key, f"it has no caption (.txt or .json), only {', '.join(sorted(files))}")


def _described(key: str, picture: bytes, content: bytes, form: SampleForm) -> Row | Unusable:
    try:
        described = json.loads(content)
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 among them
        return Unusable(key, f"its .json cannot be read ({error})")
    if not isinstance(described, dict):
        return Unusable(key, f"its .json must be an object with a caption, found {described!r:.40}")
    wanted = [form.caption_column] if form.caption_column else CAPTION_COLUMNS
    column = next((column for column in wanted if column in described), None)
    if column is None:
        keys = ", ".join(described)[:80] or "nothing"
        return Unusable(key, f"its .json has no {wanted[0]}, only {keys}")
    return row_or_reason(key, picture, described[column])


def _classified(key: str, stem: str, picture: bytes, content: bytes, form: SampleForm) -> Row | Unusable:
    if form.class_template is None:
        return Unusable(key, "it has a class (.cls) and no caption; set `class_template` to name classes")
    name = content.decode("utf-8", "replace").strip()
    return row_or_reason(key, picture, caption_of(form.class_template, stem, name) if name else "")
