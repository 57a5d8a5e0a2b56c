"""How large the pictures of a collection are before they are fitted, and which size a model of them may have."""

from functools import partial
from statistics import median

from vqlm.data_prep.collections.collection import Collection
from vqlm.data_prep.collections.worker_processes import mapped_shards
from vqlm.data_prep.pictures.picture_files import UnreadablePicture, explained_picture
from vqlm.data_prep.settings import CollectionConfig
from vqlm.data_prep.sources.rows import Row, Shard, Unusable

ENLARGED = 1.3  # the largest factor by which pictures are enlarged


def is_large_enough(median_side: int | None, side: int) -> bool:
    """Whether pictures of `median_side` pixels, None for drawings of any size, fill `side` without being blown up."""
    return median_side is None or side <= ENLARGED * median_side


def median_side(collection: Collection, rows: list[Row | Unusable]) -> int | None:
    """Median of the shorter sides of the pictures in `rows`, in pixels, from the heads of their files.

    None for arrays, and where most of the pictures are drawings, which have any size.
    """
    if collection.array_shape is not None:
        return None
    shard = Shard("a few rows", partial(iter, rows), "")
    sides_of = partial(_sides, config=collection.config, drawn_side=collection.drawn_side)
    sides = [side for _, batch, _ in mapped_shards([shard], sides_of, 1) for side in batch]  # a decoder may crash
    known = [side for side in sides if side is not None]
    return round(median(known)) if len(known) > len(sides) / 2 else None


def _sides(chunk: list[Row | Unusable], config: CollectionConfig, drawn_side: int | None) -> list[int | None]:
    """The shorter side of each picture that can be opened; None for a drawing."""
    sides: list[int | None] = []
    for row in chunk:
        if isinstance(row, Unusable):
            continue
        try:
            with explained_picture(row.image, config.max_pixels) as picture:  # type: ignore[arg-type]
                is_drawing = picture is None or picture.size == (drawn_side, drawn_side)
                sides.append(None if is_drawing or picture is None else min(picture.size))
        except UnreadablePicture:
            continue
    return sides
