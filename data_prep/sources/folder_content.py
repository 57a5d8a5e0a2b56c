"""The pictures of a folder with their captions, as its files and metadata name them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A picture's name relative to the folder, as the file system writes it, and its captions, not checked."""

    name: str
    captions: Any


@dataclass
class FolderContent:
    """Entries by key, how many files of the folder are of which kind, and splits by key where a file names them."""

    entries: dict[str, Entry] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)  # files with captions, and of which kind they are
    kinds: Counter[str] = field(default_factory=Counter)
