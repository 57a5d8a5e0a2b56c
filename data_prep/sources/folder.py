"""A folder of pictures with captions.

A picture takes its captions from the first of these that has some: `metadata.csv`, `.jsonl` or `.parquet` (Hugging Face
ImageFolder, in the folder or in folders inside it), `captions.txt` or `*.token.txt` (Flickr8k), `captions_*.json`
(COCO) or `dataset_*.json` (Karpathy's splits), the name of its class folder if a template is given, a `.txt` of its
stem beside it.
"""

import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vqlm.data_prep.caption_lines import chosen_lines, no_line
from vqlm.data_prep.file_kinds import is_picture, is_system_file, key_of, picture_suffixes
from vqlm.data_prep.names import NO_WORDS, caption_of, needs_folder, require_template
from vqlm.data_prep.rows import (
    LEFT_OUT,
    SYSTEM,
    MissingCaption,
    NoCaption,
    Row,
    Shard,
    Unusable,
    digest_of,
    kind_of_other,
    row_or_reason,
    rows_per_shard,
)
from vqlm.data_prep.sources.caption_files import Named, read_flickr, read_table
from vqlm.data_prep.sources.caption_json import Photograph, is_karpathy, may_be_caption_json, read_caption_json
from vqlm.data_prep.splits import given_split
from vqlm.training.errors import UserError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FLICKR = ("captions.txt", "captions.csv")
FLICKR_SUFFIX = ".token.txt"
# Kinds of files with captions that are not read.
BESIDE_KARPATHY = "files with captions, not read beside dataset_*.json"
OF_NO_PICTURE = "files with captions of pictures that are not here"


class Entry(NamedTuple):
    """A picture's name relative to the folder, as the file system writes it, and its captions, not checked."""

    name: str
    captions: Any


class NoCaptions(UserError):
    """A folder of pictures without any captions; `keys` are those of the pictures."""

    def __init__(self, text: str, keys: list[str]):
        super().__init__(text)
        self.keys = keys


@dataclass
class FolderContent:
    """Entries by key, how many files of the folder are of which kind, and splits by key where a file names them."""

    entries: dict[str, Entry] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)  # files with captions, and of which kind they are
    kinds: Counter[str] = field(default_factory=Counter)


def shards_of_content(folder: Path, content: FolderContent) -> list[Shard]:
    """The shards of a folder that `read_folder` has read."""
    entries = sorted(content.entries.items())
    size = rows_per_shard(len(entries))
    parts = [entries[start : start + size] for start in range(0, len(entries), size)]
    return [
        Shard(f"rows-{number:06}", functools.partial(_read, folder, part), _stamp(folder, part))
        for number, part in enumerate(parts)
    ]


def read_folder(
    folder: Path,
    class_template: str | None = None,
    columns: tuple[str | None, str | None] = (None, None),
    allow_outside_files: bool = False,
    names: list[str] | None = None,
    is_named: bool = False,
    caption_lines: str = "all",
    needs_captions: bool = True,
) -> FolderContent:
    """Find the pictures of `folder` and their captions. Pictures themselves are not opened.

    Args:
        folder: where to look, folders inside it included.
        class_template: caption of a picture by the names of its folders and its own, see `vqlm.data_prep.names`.
        columns: names of the picture and the caption column of metadata files, None for the usual names.
        allow_outside_files: whether metadata may name pictures outside the folder.
        names: what `files_below` gives, where it is known.
        is_named: whether the names of pictures are their captions, whatever files with captions are there.
        caption_lines: which lines of the text beside a picture are its captions, see `vqlm.data_prep.caption_lines`.
        needs_captions: whether a folder without any captions is an error.

    Raises:
        UserError: there are no pictures or no captions, or a file with captions cannot be understood.
    """
    content = FolderContent()
    files = _files_by_key(folder, content, files_below(folder) if names is None else names)
    pictures = [key for key in sorted(files) if is_picture(key)]
    finder = _Finder(folder, files, allow_outside_files)
    if is_named:
        _add_names(folder, content, files, pictures, class_template or "{name}")
        _count(content, files, pictures, [], set())
        return content
    tables = [key for key in sorted(files) if PurePosixPath(key).name.lower() in METADATA]
    for table in tables:
        _add_rows(content, finder, table, read_table(folder / files[table], columns))
    if flickr := _flickr_file(files, pictures):
        rows = read_flickr(folder / files[flickr])
        _add_rows(content, finder.with_names_of(pictures), flickr, rows)
        tables.append(flickr)
    described = _add_photographs(folder, content, files, pictures)
    if not pictures and not tables and not described:
        raise UserError(f"{folder} holds no pictures ({', '.join(sorted(picture_suffixes()))}); check the path.")
    tables += described
    texts = {_stem(key): key for key in sorted(files) if key.lower().endswith(".txt") and key not in tables}
    left = [key for key in pictures if key not in content.entries]
    if class_template is not None:
        _add_names(folder, content, files, left, class_template)
    else:
        _add_texts(folder, content, files, left, texts, tables, caption_lines, needs_captions)
    _count(content, files, pictures, tables, {texts[_stem(key)] for key in pictures if _stem(key) in texts})
    return content


def _files_by_key(folder: Path, content: FolderContent, names: Iterable[str]) -> dict[str, str]:
    """Names relative to `folder` by key. What the operating system left there is only counted."""
    files: dict[str, str] = {}
    for name in names:
        key = key_of(name)
        if is_system_file(name):
            content.kinds[SYSTEM] += 1
        elif key in files:
            content.entries[f"{key} (again)"] = Entry(
                name, NoCaption("another file has the same name in another Unicode form; rename one of them")
            )
        else:
            files[key] = name
    return files


def files_below(folder: Path) -> Iterator[str]:
    """Files, and folders of the system, which are not entered. A folder that several links lead to is entered once."""
    root = os.path.realpath(folder)
    entered = {root}
    for place, folders, names in os.walk(folder, followlinks=True):
        relative = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        yield from (prefix + name for name in names)
        yield from (prefix + name for name in folders if is_system_file(name))
        kept = []
        for name in sorted(folders):
            path = os.path.join(place, name)
            target = os.path.realpath(path)
            # Where a link leads to is inside the folder anyway, or was entered before.
            is_repeated = os.path.islink(path) and (target in entered or target.startswith(root + os.sep))
            if not is_system_file(name) and not is_repeated:
                entered.add(target)
                kept.append(name)
        folders[:] = kept


class _Finder:
    """Finds the file that a caption names."""

    def __init__(self, folder: Path, files: dict[str, str], allow_outside_files: bool):
        self.folder, self.files, self.allow_outside_files = folder, files, allow_outside_files
        # Keys by file name alone.
        self.by_base: dict[str, str] = {}

    def with_names_of(self, pictures: list[str]) -> "_Finder":
        """Also finds pictures by their name alone, such as those of a folder Images beside captions.txt."""
        finder = _Finder(self.folder, self.files, self.allow_outside_files)
        for key in pictures:
            finder.by_base.setdefault(PurePosixPath(key).name, key)
        return finder

    def find(self, name: str, inside: str) -> tuple[str, str | NoCaption]:
        """Key and relative name of the file `name`, as seen from the folder `inside`; or a reason instead."""
        for spelling in (name, name.replace("\\", "/")):
            relative = self._relative(spelling, inside)
            key = key_of(relative)
            if key in self.files:
                return key, self.files[key]
            if key_of(spelling) in self.by_base:
                key = self.by_base[key_of(spelling)]
                return key, self.files[key]
        if "\0" in relative:
            return key, NoCaption("its name holds a NUL byte")
        if relative.startswith("../") or os.path.isabs(relative):
            if not self.allow_outside_files:
                return key, NoCaption(
                    f"it is not in {self.folder}; set `allow_outside_files` if you trust the captions"
                )
            if (self.folder / relative).is_file():
                return key, relative
        elif (self.folder / relative).is_file():  # hidden, but named
            return key, relative
        return key, NoCaption(f"it is named in the captions and is not in {self.folder}")

    def _relative(self, name: str, inside: str) -> str:
        if "\0" in name:
            return name
        if os.path.isabs(name):
            return os.path.relpath(name, os.path.abspath(self.folder)).replace(os.sep, "/")
        return os.path.normpath(os.path.join(inside, name)).replace(os.sep, "/")


def _add_rows(content: FolderContent, finder: _Finder, table: str, rows: list[Named]) -> None:
    inside = str(PurePosixPath(table).parent)
    for place, name, captions in rows:
        if not isinstance(name, str) or not name.strip():
            content.entries[f"{table}, {place}"] = Entry("", NoCaption(f"it names no file, found {name!r:.40}"))
            continue
        key, target = finder.find(name.strip(), inside)
        if isinstance(target, NoCaption):
            content.entries[key] = Entry(name, target)
        elif key in content.entries:  # a name that comes again brings further captions
            known = content.entries[key].captions
            known = known if isinstance(known, list) else [known]
            content.entries[key] = Entry(target, known + (captions if isinstance(captions, list) else [captions]))
        else:
            content.entries[key] = Entry(target, captions)


def _add_photographs(folder: Path, content: FolderContent, files: dict[str, str], pictures: list[str]) -> list[str]:
    """Adds what COCO's files or those of Karpathy's splits describe; returns the keys of these files.

    A file of which no picture is here, such as that of the training set, is left out, and so are COCO's beside
    Karpathy's, which hold the same captions in other splits.
    """
    stems = {_stem(key) for key in pictures}
    read = {}
    for key in sorted(files):
        if may_be_caption_json(key) and _stem(key) not in stems:
            read[key] = read_caption_json(folder / files[key])
    by_base: dict[str, list[str]] = {}
    for key in pictures:
        by_base.setdefault(PurePosixPath(key).name, []).append(key)
    described = []
    has_karpathy = any(is_karpathy(key) and photographs for key, photographs in read.items())
    for table, photographs in read.items():
        if photographs is None:
            continue
        if has_karpathy and not is_karpathy(table):
            content.unread[table] = BESIDE_KARPATHY
            continue
        located = [_picture_named(photograph, files, by_base) for photograph in photographs]
        if not any(located):
            content.unread[table] = OF_NO_PICTURE
            continue
        described.append(table)
        for photograph, key in zip(photographs, located, strict=True):
            _add_photograph(content, files, table, photograph, key)
    return described


def _picture_named(photograph: Photograph, files: dict[str, str], by_base: dict[str, list[str]]) -> str | None:
    """The key of the picture: of its whole path or else of its name, in the folder of its split if several have it."""
    name = key_of(photograph.name.replace("\\", "/"))
    if name in files:
        return name
    same_name = by_base.get(PurePosixPath(name).name, [])
    if len(same_name) > 1:
        same_name = [key for key in same_name if given_split(*PurePosixPath(key).parts[:-1]) == photograph.split]
    return same_name[0] if len(same_name) == 1 else None


def _add_photograph(
    content: FolderContent, files: dict[str, str], table: str, photograph: Photograph, key: str | None
) -> None:
    captions = photograph.captions
    if not captions and not isinstance(captions, NoCaption):
        captions = MissingCaption(f"{table} has no caption of it")
    if key is None:
        if not isinstance(captions, NoCaption) or isinstance(captions, MissingCaption):
            captions = NoCaption(f"it is named in {table} and is not in the folder, or several pictures have its name")
        content.entries[f"{table}, {key_of(photograph.name)}"] = Entry(photograph.name, captions)
        return
    known = content.entries.get(key)
    if known is not None and isinstance(known.captions, list) and isinstance(captions, list):
        captions = known.captions + captions
    content.entries[key] = Entry(files[key], captions)
    if photograph.split is not None:
        content.splits[key] = photograph.split


def _flickr_file(files: dict[str, str], pictures: list[str]) -> str | None:
    """The captions of Flickr8k, which must not be the text beside a picture such as captions.png."""
    stems = {_stem(key) for key in pictures}
    top = [key for key in sorted(files) if "/" not in key and _stem(key) not in stems]
    for key in top:
        if key.lower() in FLICKR:
            return key
    return next((key for key in top if key.lower().endswith(FLICKR_SUFFIX)), None)


def _add_names(folder: Path, content: FolderContent, files: dict[str, str], pictures: list[str], template: str) -> None:
    """Captions of the names of folders and files. What has no words is left out."""
    require_template(template)
    if needs_folder(template) and (loose := [key for key in pictures if "/" not in key]):
        raise UserError(
            f"{folder}: {loose[0]} lies in no class folder; move it into one, or leave `class_template` out."
        )
    for key in pictures:
        if caption := caption_of(template, key):
            content.entries[key] = Entry(files[key], caption)
        else:
            content.kinds[NO_WORDS] += 1
    if pictures and content.kinds[NO_WORDS] == len(pictures):
        raise UserError(
            f"{folder}: the names of its {len(pictures)} pictures, such as {pictures[0]}, have no words; write "
            "metadata.csv with the columns file_name and caption, or a .txt of the same name beside each picture."
        )


def _add_texts(
    folder: Path, content: FolderContent, files: dict[str, str], pictures: list[str], texts: dict[str, str],
    tables: list[str], caption_lines: str, needs_captions: bool,
) -> None:  # fmt: skip
    described = [key for key in pictures if _stem(key) in texts]
    if not described and not tables and needs_captions:
        raise NoCaptions(
            f"{folder} has {len(pictures)} pictures without a caption; write metadata.csv with the columns file_name "
            "and caption, or a .txt of the same name beside each picture, or set `captions_from` to names if these say "
            'what they show, or `class_template` to "a photo of a {}" if its folders are classes.',
            pictures,
        )
    missing = no_line(caption_lines)
    for key in described:
        lines = _lines(folder / files[texts[_stem(key)]])
        captions = lines if isinstance(lines, NoCaption) else chosen_lines(lines, caption_lines)
        if isinstance(lines, list) and any(lines) and not captions:
            content.kinds[missing] += 1
        else:
            content.entries[key] = Entry(files[key], captions)
    if described and content.kinds[missing] == len(described):
        raise UserError(
            f"{folder}: no text beside its {len(described)} pictures has a line in {caption_lines}; set "
            "`caption_lines` to first, or to a language that begins lines such as `de.utf8=...`."
        )
    places = {"." if may_be_caption_json(table) else str(PurePosixPath(table).parent) for table in tables}
    for key in set(pictures).difference(described):
        # A table speaks for its folder and those below it: it leaves out what it does not name.
        if places & {str(parent) for parent in PurePosixPath(key).parents}:
            content.kinds[LEFT_OUT] += 1
        else:
            reason = MissingCaption("it has no caption: there is no .txt of its name beside it")
            content.entries[key] = Entry(files[key], reason)


def _count(
    content: FolderContent, files: dict[str, str], pictures: list[str], tables: list[str], texts: set[str]
) -> None:
    known = {*pictures, *tables, *texts}
    content.kinds["pictures with an entry"] = sum(key in content.entries for key in pictures)
    content.kinds["files with captions"] = len(tables)
    content.kinds["texts beside pictures"] = len(texts)
    for key in files:
        if key not in known:
            content.kinds[content.unread.get(key) or kind_of_other(key)] += 1


def _stem(key: str) -> str:
    return str(PurePosixPath(key).with_suffix(""))


def _read(folder: Path, entries: list[tuple[str, Entry]]) -> Iterator[Row | Unusable]:
    for key, (name, captions) in entries:
        if isinstance(captions, NoCaption):
            yield Unusable(key, str(captions), image=folder / name if isinstance(captions, MissingCaption) else None)
        else:
            yield row_or_reason(key, folder / name, captions)


def _stamp(folder: Path, entries: list[tuple[str, Entry]]) -> str:
    def status(name: str) -> tuple[int, int]:
        try:
            status = os.stat(folder / name)
        except (OSError, ValueError):  # ValueError: a NUL byte
            return -1, -1
        return status.st_size, status.st_mtime_ns

    return digest_of((key, entry.captions, *status(entry.name)) for key, entry in entries)


def _lines(path: Path) -> list[bytes] | MissingCaption:
    """One caption per line, as bytes: a file in another encoding makes one row unusable, not the whole folder."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return MissingCaption(f"its .txt cannot be read ({error.strerror})")
    return content.splitlines() if content.strip() else [b""]
