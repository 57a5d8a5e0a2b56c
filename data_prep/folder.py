"""A folder of captioned pictures. Knows where captions are written, nothing of codes."""

import csv
import json
from collections import Counter
from pathlib import Path

from datasets import Dataset, DatasetDict, Image

from data_prep.splits import hash_share, is_held_out
from training.errors import UserError

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
PICTURE_COLUMNS = ("file_name", "image", "file")
CAPTION_COLUMNS = ("caption", "text")


def load_folder(folder: Path) -> DatasetDict:
    """Splits `train` and `held_out` (a tenth by a hash of the file's name) of a folder of captioned pictures.

    Captions come from `metadata.csv` or `metadata.jsonl` (columns `file_name`, `caption`; pictures that it does not
    name are left out), else from a `.txt` of the same stem beside each picture.
    Raises UserError for a folder without captions, a caption file that names a missing picture, a picture without a
    `.txt`, an empty caption, or fewer than two pictures.
    """
    captions = read_captions(folder)
    if len(captions) < 2:
        raise UserError(f"{folder} holds {len(captions)} captioned picture; at least 2 are needed, one is held out.")
    held_out = [name for name in captions if is_held_out(name)] or [min(captions, key=hash_share)]
    if len(held_out) == len(captions):
        held_out = held_out[:1]
    train = [name for name in captions if name not in set(held_out)]
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "image": [str(folder / name) for name in names],
                    "caption": [captions[name] for name in names],
                    "key": names,
                }
            ).cast_column("image", Image())
            for split, names in {"train": train, "held_out": held_out}.items()
        }
    )


def read_captions(folder: Path) -> dict[str, str]:
    """Caption by file name, relative to the folder and sorted."""
    for name, read in (("metadata.csv", _read_csv), ("metadata.jsonl", _read_jsonl)):
        if (path := folder / name).exists():
            captions = _by_file_name(path, read(path))
            break
    else:
        captions = _same_stem_captions(folder)
    if empty := [name for name, caption in captions.items() if not caption.strip()]:
        raise UserError(f"{folder}: the caption of {empty[0]} is empty; write one or remove the picture.")
    return {name: " ".join(captions[name].split()) for name in sorted(captions)}


def _read_csv(path: Path) -> list[dict]:
    return list(csv.DictReader(_read_text(path).splitlines(keepends=True)))


def _read_jsonl(path: Path) -> list[dict]:
    rows = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number} is not JSON ({error.msg}); write one object a line.") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is no object with file_name and caption, found {line[:40]}.")
        rows.append(row)
    return rows


def _read_text(path: Path) -> str:
    """With or without the byte order mark that spreadsheets write."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None


def _by_file_name(path: Path, rows: list[dict]) -> dict[str, str]:
    if not rows:
        raise UserError(f"{path} holds no rows; write one row a picture, with file_name and caption.")
    picture = next((column for column in PICTURE_COLUMNS if column in rows[0]), None)
    caption = next((column for column in CAPTION_COLUMNS if column in rows[0]), None)
    if picture is None or caption is None:
        raise UserError(f"{path} must have the columns file_name and caption, found {', '.join(map(str, rows[0]))}.")
    for row in rows:
        if None in row:  # where csv puts what has no column
            raise UserError(f"{path}: the row of {row[picture]} has too many commas; put its caption in double quotes.")
        if not row.get(picture) or not (path.parent / row[picture]).is_file():
            raise UserError(
                f"{path} names the picture {row.get(picture)!r}, which is not in {path.parent}; "
                "add the file or remove its row."
            )
        if not isinstance(row.get(caption), str | None):
            raise UserError(f"{path}: the caption of {row[picture]} must be text, found {row[caption]!r}.")
    captions = {row[picture]: row.get(caption) or "" for row in rows}
    if len(captions) < len(rows):
        twice = next(name for name, count in Counter(row[picture] for row in rows).items() if count > 1)
        raise UserError(f"{path} names the picture {twice} more than once; keep one row a picture.")
    return captions


def _same_stem_captions(folder: Path) -> dict[str, str]:
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    if not pictures:
        raise UserError(f"{folder} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))}); check the path.")
    missing = [path for path in pictures if not path.with_suffix(".txt").exists()]
    if missing:
        raise UserError(
            f"{folder} has {len(missing)} of {len(pictures)} pictures without a caption, {missing[0].name} first; "
            "write metadata.csv with the columns file_name and caption, or a .txt of the same name beside each picture."
        )
    return {path.relative_to(folder).as_posix(): _read_text(path.with_suffix(".txt")).strip() for path in pictures}
