"""Pictures as bytes and in a folder, and the rows of a shard as a person would write them down."""

import io
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from PIL import Image

from vqlm.data_prep.sources.rows import Row, Shard, Unusable

sys.path.insert(0, str(Path(__file__).parent))  # for `captioned_folder`
from captioned_folder import draw  # noqa: E402


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """picture("red", "PNG"): the file of a picture, 4x4."""

    def make(colour: str = "red", kind: str = "PNG") -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (4, 4), colour).save(file, kind)
        return file.getvalue()

    return make


@pytest.fixture
def read() -> Callable[[Iterable[Shard]], tuple[dict[str, tuple], dict[str, str]]]:
    """read(shards): captions by key, and reasons of what is unusable by key."""

    def rows_of(shards: Iterable[Shard]) -> tuple[dict[str, tuple], dict[str, str]]:
        rows = [row for shard in shards for row in shard.read()]
        captions = {row.key: row.captions for row in rows if isinstance(row, Row)}
        return captions, {row.key: row.reason for row in rows if isinstance(row, Unusable)}

    return rows_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, a.png and b.png, without captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw(folder, ["a.png", "b.png"])
    return folder
