"""What a file is, by its name: a picture, or a file that the operating system left there."""

import unicodedata
from functools import cache
from pathlib import PurePosixPath

from PIL import Image

# Formats that Pillow decodes itself. EPS is not among them: it would start Ghostscript, which runs programs.
PICTURE_FORMATS = (
    "AVIF", "BMP", "DDS", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "PSD", "QOI",
    "SGI", "SUN", "TGA", "TIFF", "WEBP", "XBM",
)  # fmt: skip
SVG = ".svg"
SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}


@cache
def picture_suffixes() -> frozenset[str]:
    """Suffixes of picture files, in lower case with the dot."""
    registered = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in registered.items() if kind in PICTURE_FORMATS) | {SVG}


@cache
def readable_formats() -> tuple[str, ...]:
    """The allowed formats that this Pillow can open, as `PIL.Image.open(formats=...)` takes them."""
    Image.init()
    return tuple(kind for kind in PICTURE_FORMATS if kind in Image.OPEN)


def is_picture(name: str) -> bool:
    """Whether a file of this name holds a picture."""
    return PurePosixPath(name).suffix.lower() in picture_suffixes()


def is_system_file(name: str) -> bool:
    """Whether the path `name`, with slashes, is hidden or is (inside) a file or folder of an operating system."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return any(part.startswith(".") or part.lower() in SYSTEM_NAMES for part in parts)


def key_of(name: str) -> str:
    """A file's name as a key: the same whichever Unicode form the file system uses, and always valid UTF-8.

    Bytes that are not UTF-8 become escapes such as \\xe5.
    """
    try:
        content = name.encode("utf-8", "surrogateescape")  # how Python keeps bytes of file names that are not UTF-8
    except UnicodeEncodeError:
        content = name.encode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", content.decode("utf-8", "backslashreplace"))
