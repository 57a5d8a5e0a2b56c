"""Folders of pictures with captions, as the tests of them write and read them."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from vqlm.data_prep.sources.folder import read_folder, shards_of_content
from vqlm.data_prep.sources.rows import Shard


def folder_shards(folder: Path, *arguments: Any, **options: Any) -> list[Shard]:
    """The shards of a folder, with the arguments of `read_folder`."""
    return shards_of_content(folder, read_folder(folder, *arguments, **options))


def draw(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(folder / name)


def write_csv(folder: Path, *lines: str) -> None:
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_jsonl(folder: Path, *rows: object) -> None:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
