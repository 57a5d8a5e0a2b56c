"""Which columns of a table hold the picture and its captions."""

from vqlm.data_prep.sources.rows import CAPTION_COLUMNS, PICTURE_COLUMNS
from vqlm.training.errors import UserError


def pick_columns(
    place: str, names: list[str], image_column: str | None = None, caption_column: str | None = None
) -> tuple[str, str]:
    """The names of the picture column and the caption column: the given ones, or the first usual ones among `names`.

    Raises UserError that lists the columns of `place`.
    """
    picture, caption = find_columns(names, image_column, caption_column)
    if picture not in names or caption not in names:
        raise UserError(
            f"{place} must have the columns {image_column or 'file_name (or image)'} and "
            f"{caption_column or 'caption (or text)'}, found {', '.join(map(str, names))}; rename them, or name them "
            "with `image_column` and `caption_column`."
        )
    return picture, caption


def find_columns(
    names: list[str], image_column: str | None = None, caption_column: str | None = None
) -> tuple[str | None, str | None]:
    """As `pick_columns`, with None for what is not there."""
    picture = image_column or next((name for name in PICTURE_COLUMNS if name in names), None)
    return picture, caption_column or next((name for name in CAPTION_COLUMNS if name in names), None)
