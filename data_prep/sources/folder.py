"""A folder of pictures with captions.

A picture takes its captions from the first of these that has some: `metadata.csv`, `.jsonl` or `.parquet` (Hugging Face
ImageFolder, in the folder or in folders inside it), `captions.txt` or `*.token.txt` (Flickr8k), `captions_*.json`
(COCO) or `dataset_*.json` (Karpathy's splits), the name of its class folder if a template is given, a `.txt` of its
stem beside it.
"""

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from vqlm.data_prep.captions.lines import chosen_lines, no_line
from vqlm.data_prep.captions.names import NO_WORDS, caption_of, needs_folder, require_template
from vqlm.data_prep.pictures.file_kinds import is_picture, is_system_file, key_of, picture_suffixes
from vqlm.data_prep.sources.caption_files import Named, read_flickr, read_table
from vqlm.data_prep.sources.caption_json import may_be_caption_json
from vqlm.data_prep.sources.files_of_folder import Finder, files_below, is_special, stem_of
from vqlm.data_prep.sources.folder_content import Entry, FolderContent
from vqlm.data_prep.sources.photographs import add_photographs
from vqlm.data_prep.sources.rows import (
    LEFT_OUT,
    SPECIAL,
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
from vqlm.training.errors import UserError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FLICKR = ("captions.txt", "captions.csv")
FLICKR_SUFFIX = ".token.txt"


class NoCaptions(UserError):
    """A folder of pictures without any captions; `keys` are those of the pictures."""

    def __init__(self, text: str, keys: list[str]):
        super().__init__(text)
        self.keys = keys


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
        class_template: caption of a picture by the names of its folders and its own, see
            `vqlm.data_prep.captions.names`.
        columns: names of the picture and the caption column of metadata files, None for the usual names.
        allow_outside_files: whether metadata may name pictures outside the folder.
        names: what `files_below` gives, where it is known.
        is_named: whether the names of pictures are their captions, whatever files with captions are there.
        caption_lines: which lines of the text beside a picture are its captions, see `vqlm.data_prep.captions.lines`.
        needs_captions: whether a folder without any captions is an error.

    Raises:
        UserError: there are no pictures or no captions, or a file with captions cannot be understood.
    """
    content = FolderContent()
    files = _files_by_key(folder, content, files_below(folder) if names is None else names)
    pictures = [key for key in sorted(files) if is_picture(key)]
    finder = Finder(folder, files, allow_outside_files)
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
    described = add_photographs(folder, content, files, pictures)
    if not pictures and not tables and not described:
        raise UserError(f"{folder} holds no pictures ({', '.join(sorted(picture_suffixes()))}); check the path.")
    tables += described
    texts = {stem_of(key): key for key in sorted(files) if key.lower().endswith(".txt") and key not in tables}
    left = [key for key in pictures if key not in content.entries]
    if class_template is not None:
        _add_names(folder, content, files, left, class_template)
    else:
        _add_texts(folder, content, files, left, texts, tables, caption_lines, needs_captions)
    _count(content, files, pictures, tables, {texts[stem_of(key)] for key in pictures if stem_of(key) in texts})
    return content


def _files_by_key(folder: Path, content: FolderContent, names: Iterable[str]) -> dict[str, str]:
    """Names relative to `folder` by key. What the operating system left there is only counted."""
    files: dict[str, str] = {}
    for name in names:
        key = key_of(name)
        if is_system_file(name):
            content.kinds[SYSTEM] += 1
        elif not is_picture(name) and is_special(folder / name):  # of a picture its row says so
            content.kinds[SPECIAL] += 1
        elif key in files:
            content.entries[f"{key} (again)"] = Entry(
                name, NoCaption("another file has the same name in another Unicode form; rename one of them")
            )
        else:
            files[key] = name
    return files


def _add_rows(content: FolderContent, finder: Finder, table: str, rows: list[Named]) -> None:
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


def _flickr_file(files: dict[str, str], pictures: list[str]) -> str | None:
    """The captions of Flickr8k, which must not be the text beside a picture such as captions.png."""
    stems = {stem_of(key) for key in pictures}
    top = [key for key in sorted(files) if "/" not in key and stem_of(key) not in stems]
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
    described = [key for key in pictures if stem_of(key) in texts]
    if not described and not tables and needs_captions:
        raise NoCaptions(
            f"{folder} has {len(pictures)} pictures without a caption; write metadata.csv with the columns file_name "
            "and caption, or a .txt of the same name beside each picture, or set `captions_from` to names if these say "
            'what they show, or `class_template` to "a photo of a {}" if its folders are classes.',
            pictures,
        )
    missing = no_line(caption_lines)
    for key in described:
        lines = _lines(folder / files[texts[stem_of(key)]])
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
