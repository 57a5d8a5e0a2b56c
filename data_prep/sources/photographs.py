"""Pictures of a folder that COCO's files or those of Karpathy's splits describe."""

from pathlib import Path, PurePosixPath

from vqlm.data_prep.pictures.file_kinds import key_of
from vqlm.data_prep.sources.caption_json import Photograph, is_karpathy, may_be_caption_json, read_caption_json
from vqlm.data_prep.sources.files_of_folder import stem_of
from vqlm.data_prep.sources.folder_content import Entry, FolderContent
from vqlm.data_prep.sources.rows import MissingCaption, NoCaption
from vqlm.data_prep.splits import given_split

# Kinds of files with captions that are not read.
BESIDE_KARPATHY = "files with captions, not read beside dataset_*.json"
OF_NO_PICTURE = "files with captions of pictures that are not here"


def add_photographs(folder: Path, content: FolderContent, files: dict[str, str], pictures: list[str]) -> list[str]:
    """Adds what COCO's files or those of Karpathy's splits describe; returns the keys of these files.

    A file of which no picture is here, such as that of the training set, is left out, and so are COCO's beside
    Karpathy's, which hold the same captions in other splits.
    """
    stems = {stem_of(key) for key in pictures}
    read = {}
    for key in sorted(files):
        if may_be_caption_json(key) and stem_of(key) not in stems:
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
