"""Words that most captions begin with, such as "a picture of", and captions without them."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from vqlm.data_prep.captions.wording import normalize_caption
from vqlm.data_prep.sources.rows import Row, Shard, Unusable, read_all


def without_prefix(shards: list[Shard], prefix: str) -> list[Shard]:
    """The shards with captions that do not begin with `prefix`, in whatever case, unless nothing else is in them."""
    return [replace(shard, read=partial(_read, shard, normalize_caption(prefix).lower())) for shard in shards]


def _read(shard: Shard, prefix: str) -> Iterator[Row | Unusable]:
    for row in read_all([shard]):
        if isinstance(row, Row):
            row = replace(row, captions=tuple(_shortened(caption, prefix) for caption in row.captions))
        yield row


def _shortened(caption: str, prefix: str) -> str:
    rest = caption[len(prefix) :]
    is_whole_word = rest[:1] == " " and caption.lower().startswith(prefix)
    return rest.strip() if is_whole_word else caption
