"""The files of a folder, and which of them a caption names."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from vqlm.data_prep.pictures.file_kinds import is_system_file, key_of
from vqlm.data_prep.sources.rows import NoCaption
from vqlm.training.errors import UserError


def files_below(folder: Path) -> Iterator[str]:
    """Files, and folders of the system, which are not entered. A folder that several links lead to is entered once.

    Raises UserError for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}); check its permissions.")

    root = os.path.realpath(folder)
    entered = {root}
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        relative = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        yield from (prefix + name for name in names)
        yield from (prefix + name for name in folders if is_system_file(name))
        kept = []
        for name in sorted(folders):
            path = os.path.join(place, name)
            target = os.path.realpath(path)
            # A link that leads into the folder, or to what holds it, would repeat its files.
            is_repeated = os.path.islink(path) and (_is_inside(target, root) or _is_inside(root, target))
            is_repeated = is_repeated or target in entered
            if not is_system_file(name) and not is_repeated:
                entered.add(target)
                kept.append(name)
        folders[:] = kept


def _is_inside(path: str, folder: str) -> bool:
    return f"{path}{os.sep}".startswith(folder.rstrip(os.sep) + os.sep)


def is_special(path: Path) -> bool:
    """Whether it is a pipe, a device or a socket, perhaps through a link; reading one may never end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: a NUL byte
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


class Finder:
    """Finds the file that a caption names."""

    def __init__(self, folder: Path, files: dict[str, str], allow_outside_files: bool):
        self.folder, self.files, self.allow_outside_files = folder, files, allow_outside_files
        # Keys by file name alone.
        self.by_base: dict[str, str] = {}

    def with_names_of(self, pictures: list[str]) -> "Finder":
        """Also finds pictures by their name alone, such as those of a folder Images beside captions.txt."""
        finder = Finder(self.folder, self.files, self.allow_outside_files)
        for key in pictures:
            finder.by_base.setdefault(PurePosixPath(key).name, key)
        return finder

    def find(self, name: str, inside: str) -> tuple[str, str | NoCaption]:
        """Key and relative name of the file `name`, as seen from the folder `inside`; or a reason instead."""
        for spelling in (name, name.replace("\\", "/")):
            relative = self._relative(spelling, inside)
            key = key_of(relative)
            if key in self.files:
                return key, self.files[key]
            if key_of(spelling) in self.by_base:
                key = self.by_base[key_of(spelling)]
                return key, self.files[key]
        if "\0" in relative:
            return key, NoCaption("its name holds a NUL byte")
        if relative.startswith("../") or os.path.isabs(relative):
            if not self.allow_outside_files:
                return key, NoCaption(
                    f"it is not in {self.folder}; set `allow_outside_files` if you trust the captions"
                )
            if os.path.isfile(self.folder / relative):
                return key, relative
        elif os.path.isfile(self.folder / relative):  # hidden, but named
            return key, relative
        return key, NoCaption(f"it is named in the captions and is not in {self.folder}")

    def _relative(self, name: str, inside: str) -> str:
        if "\0" in name:
            return name
        if os.path.isabs(name):
            return os.path.relpath(name, os.path.abspath(self.folder)).replace(os.sep, "/")
        return os.path.normpath(os.path.join(inside, name)).replace(os.sep, "/")


def stem_of(key: str) -> str:
    """`key` without its suffix."""
    return str(PurePosixPath(key).with_suffix(""))
