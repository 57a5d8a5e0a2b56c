"""Which lines of a text beside a picture are its captions.

A line is a caption. In files with translations, as those of Tux Paint, the first line is English and the others begin
with their language: `de.utf8=Ein Handschuh.`
"""

import re
from collections.abc import Sequence

from vqlm.training.errors import UserError

LANGUAGE = re.compile(r"[a-z]{2,3}(?:[_-][A-Za-z]{2,4})?(?:@[a-z]+)?$")
_TAG = re.compile(rb"([A-Za-z]{2,3}(?:[_-][A-Za-z]{2,4})?(?:@[A-Za-z]+)?)\.utf-?8\s*=", re.IGNORECASE)
NO_LINE = "pictures without a caption in"
FIRST_LANGUAGE = "en"  # of the line that names none


def require_caption_lines(choice: str) -> None:
    """Raises UserError for anything but first, all or the code of a language."""
    if choice not in ("first", "all") and not LANGUAGE.match(choice):
        raise UserError(f"`caption_lines` must be first, all, or a language such as de or pt_BR; found {choice!r}.")


def chosen_lines(lines: Sequence[bytes], choice: str) -> list[bytes]:
    """The lines that are captions, without the names of their languages; none where the language is missing.

    A language without its region takes the first region's line where it has none of its own.
    """
    tagged = [(_language(line), _TAG.sub(b"", line, count=1)) for line in lines if line.strip()]
    if choice == "all":
        return [text for _, text in tagged] if any(language for language, _ in tagged) else list(lines)
    if choice == "first":
        return [text for _, text in tagged[:1]]
    wanted = choice.lower().replace("-", "_")
    for is_meant in (
        lambda language: language == wanted,
        lambda language: language is None and wanted == FIRST_LANGUAGE,
        lambda language: language is not None and re.split("[_@]", language)[0] == wanted,
    ):
        if texts := [text for language, text in tagged if text.strip() and is_meant(language)]:
            return texts[:1]
    return []


def no_line(choice: str) -> str:
    """The kind of pictures that have no line in a language."""
    return f"{NO_LINE} {choice}, left out"


def _language(line: bytes) -> str | None:
    tag = _TAG.match(line)
    return None if tag is None else tag[1].decode().lower().replace("-", "_")
