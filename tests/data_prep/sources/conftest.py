"""Pictures as bytes, and the rows of a shard as a person would write them down."""

import io
from collections.abc import Callable, Iterable

import pytest
from PIL import Image
from vqlm.data_prep.rows import Row, Shard, Unusable


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
