"""Which columns of a table hold the picture and its captions."""

from vqlm.data_prep.rows import CAPTION_COLUMNS, PICTURE_COLUMNS
from vqlm.training.errors import UserError


def pick_columns(
    place: str, found: list[str], image_column: str | None = None, caption_column: str | None = None
) -> tuple[str, str]:
    """The names of the picture's and the captions' column: those asked for, or the first of the usual names.

    Raises UserError that lists the columns which were found.
    """
    picture = image_column or next((name for name in PICTURE_COLUMNS if name in found), None)
    caption = caption_column or next((name for name in CAPTION_COLUMNS if name in found), None)
    if picture not in found or caption not in found:
        raise UserError(
            f"{place} must have the columns {image_column or 'file_name (or image)'} and "
            f"{caption_column or 'caption (or text)'}, found {', '.join(map(str, found))}; rename them, or say which "
            "with --image-column and --caption-column."
        )
    return picture, caption
