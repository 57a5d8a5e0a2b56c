"""Which rows of a collection are taken: filters by size and caption. Puts fixed words around captions."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from vqlm.data_prep.captions.wording import normalize_caption
from vqlm.data_prep.pictures.picture_files import UnreadablePicture, explained_picture
from vqlm.data_prep.settings import CollectionConfig
from vqlm.data_prep.sources.rows import Row, Unusable

Read = Callable[[], Iterator[Row | Unusable]]


def chosen_rows(read: Read, config: CollectionConfig, needs_captions: bool) -> Iterator[Row | Unusable]:
    """The rows that `read` gives and the settings want; the others become Unusable with `is_left_out`.

    Without `needs_captions` a picture whose caption is missing or unusable is a row with the caption "".
    """
    for row in read():
        if isinstance(row, Row):
            yield _chosen(row, config)
        elif row.image is not None and not needs_captions:
            yield _chosen(Row(row.key, row.image, ("",)), config)
        else:
            yield row if row.image is None else replace(row, image=None)


def _chosen(row: Row, config: CollectionConfig) -> Row | Unusable:
    captions = row.captions
    if any(captions):
        low, high = config.min_caption_words, config.max_caption_words
        if low or high is not None:
            captions = tuple(text for text in captions if low <= len(text.split()) <= (high or len(text)))
            if not captions:
                words = f"at least {low}" if high is None else f"{low} to {high}"
                reason = f"left out: it has no caption of {words} words (`min_caption_words`, `max_caption_words`)"
                return Unusable(row.key, reason, is_left_out=True)
        if config.add_prefix or config.add_suffix:
            captions = tuple(normalize_caption(f"{config.add_prefix}{text}{config.add_suffix}") for text in captions)
    if (reason := _size_reason(row, config)) is not None:
        return Unusable(row.key, reason, is_left_out=True)
    return row if captions is row.captions else replace(row, captions=captions)


def _size_reason(row: Row, config: CollectionConfig) -> str | None:
    """Why a picture is left out for its size; None if it is not, or if it cannot be opened, which decoding reports."""
    if not config.min_side and config.max_aspect is None or isinstance(row.image, np.ndarray):
        return None
    try:
        with explained_picture(row.image, config.max_pixels) as picture:
            size = None if picture is None else picture.size
    except UnreadablePicture:
        return None
    if size is None or not min(size):
        return None
    if min(size) < config.min_side:
        return f"left out: its shorter side is below `min_side` {config.min_side}"
    if config.max_aspect is not None and max(size) > config.max_aspect * min(size):
        return f"left out: its sides differ by more than `max_aspect` {config.max_aspect:g}"
    return None
