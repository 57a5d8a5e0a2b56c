"""The words in the names of files and folders, and the captions that are made of them.

"red_bicycle-12.png" -> "red bicycle". Numbers of a series, sizes, hashes, dates and the names that cameras and programs
give say nothing of a picture, and are no words.
"""

import re
import urllib.parse
from pathlib import PurePosixPath

from vqlm.data_prep.pictures.file_kinds import is_picture
from vqlm.training.errors import UserError

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
SEPARATORS = re.compile(r"[\s_\-+.,;:~()\[\]{}@#=!%–—]+")
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # redBicycle, HTMLPage
CODE_POINTS = re.compile(r"(?:u\+?|emoji_u)?[0-9a-f]{4,6}(?:[-_][0-9a-f]{4,6})*$", re.IGNORECASE)
HEXADECIMAL = re.compile(r"(?=.*\d)(?=.*[a-f])[0-9a-f]{7,}$", re.IGNORECASE)
SIZE = re.compile(r"\d+x\d*$|x\d+$|\d+(?:px|dpi)$", re.IGNORECASE)  # 640x480, the 2x of @2x, 64px
COUNTER = re.compile(r"[a-z]{1,4}\d{4,}$", re.IGNORECASE)  # P1010001, WA0001
VERSION = re.compile(r"v\d+$", re.IGNORECASE)
SERIAL = re.compile(r"(?<=[^\W\d_]{3})\d+$")  # the 008 of smiley008, not the 3 of mp3
ALTERNATION = re.compile(r"(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)")
LETTER = re.compile(r"[^\W\d_]")
LONG_NUMBER = 5  # digits: a date, a time or an identifier
CAMERAS = {
    "img", "imag", "dsc", "dscn", "dscf", "cimg", "dcim", "pxl", "mvimg", "gopr", "gp", "dji", "sam", "hpim", "pict",
    "wa", "vid",
}  # fmt: skip
# Names that programs give. They say nothing where they stand alone, and may be part of a caption.
PROGRAMS = {
    "image", "images", "picture", "pic", "photo", "photos", "screenshot", "screen", "shot", "scan", "scanned",
    "untitled", "unnamed", "unknown", "download", "downloaded", "file", "whatsapp", "telegram", "signal", "snapchat",
    "whats", "app", "at", "am", "pm", "copy", "of", "frame", "page", "p", "new", "thumb", "thumbnail", "icon", "main",
    "index", "default", "original", "orig", "final", "edited", "output", "result", "sample", "test",
}  # fmt: skip
TRAILING = {"copy", "thumb", "thumbnail", "orig"}  # of the end of a name

NO_WORDS = "pictures whose names have no words, left out"

FIELD = re.compile(r"\{(\w*)\}")
FIELDS = ("", "class", "path", "name")


def words_of_name(name: str) -> str:
    """The words of a file's or folder's name, without its suffix; empty where it has none.

    >>> words_of_name("red_bicycle-12.png"), words_of_name("MincePie"), words_of_name("IMG_1234.jpg")
    ('red bicycle', 'mince pie', '')
    """
    stem = str(PurePosixPath(name).with_suffix("")) if is_picture(name) else name
    stem = UUID.sub(" ", urllib.parse.unquote(stem))
    if CODE_POINTS.match(stem) and re.search(r"\d", stem):
        return ""
    parts = [part for token in SEPARATORS.split(stem) if not _is_noise(token) for part in HUMP.split(token)]
    tokens = [token for token in parts if token and not _is_noise(token) and token.lower() not in CAMERAS]
    words = [_lowered(token) for token in _without_numbering(tokens)]
    is_told = any(LETTER.search(word) and word.lower() not in PROGRAMS for word in words)
    return " ".join(words) if is_told else ""


def _is_noise(token: str) -> bool:
    """Whether a token is a hash, a size, a date or the like."""
    if token.isdigit():
        return len(token) >= LONG_NUMBER
    is_random = len(token) >= 8 and len(ALTERNATION.findall(token)) >= 3
    return is_random or any(kind.match(token) for kind in (HEXADECIMAL, SIZE, COUNTER))


def _without_numbering(tokens: list[str]) -> list[str]:
    """Without the numbers of a series: those at the end, and a long or zero-padded one at the beginning."""
    while tokens and (tokens[-1].isdigit() or VERSION.match(tokens[-1]) or tokens[-1].lower() in TRAILING):
        tokens = tokens[:-1]
    if tokens:
        tokens = [*tokens[:-1], SERIAL.sub("", tokens[-1])]
    if tokens and tokens[0].isdigit() and (len(tokens[0]) > 2 or tokens[0].startswith("0")):
        tokens = tokens[1:]
    return tokens


def _lowered(word: str) -> str:
    """ "Mince" -> "mince"; "USA" and the letter "N" stay."""
    return word.lower() if len(word) > 1 and word[1:].islower() else word


def require_template(template: str) -> None:
    """Raises UserError for a template of captions without a field, or with one that is not known."""
    names = FIELD.findall(template)
    if not names or any(name not in FIELDS for name in names):
        raise UserError(
            '`class_template` must hold {} where the class goes, as "a photo of a {}", or some of {class}, {path} and '
            f"{{name}}; found {template!r}."
        )


def needs_folder(template: str) -> bool:
    """Whether a template says nothing of a picture that lies in no folder."""
    return "name" not in FIELD.findall(template)


def caption_of(template: str, key: str, class_name: str | None = None) -> str:
    """The caption of a picture by its key, `folder/folder/name.png`; empty where no field of the template has words.

    {path} is the words of all folders, {class} or {} the last folder or `class_name`, {name} the words of the name. An
    underscore of a class is a space, and that is all: it was named for a person.
    """
    folders = PurePosixPath(key).parts[:-1]
    if class_name is None:
        class_name = folders[-1] if folders else ""
    values = {
        "class": " ".join(class_name.replace("_", " ").split()),
        "path": " ".join(words for folder in folders if (words := words_of_name(folder))),
        "name": words_of_name(PurePosixPath(key).name),
    }
    values[""] = values["class"]
    if not any(values[name] for name in FIELD.findall(template)):
        return ""
    return FIELD.sub(lambda field: values[field[1]], template)
