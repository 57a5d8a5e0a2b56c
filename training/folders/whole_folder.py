"""Saves a folder whose files are replaced together: it is complete, or its marker file is missing."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError

from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import flush_to_disk, write_failure

SAVING = "saving.tmp"


def save_whole(folder: Path, marker: str, write: Callable[[Path], None], *, replaced: Sequence[str]) -> None:
    """Fill a temporary folder inside `folder` by `write(temporary)`, and move its files to `folder` once all of them
    are on the disk.

    The file `marker` is removed before the others move, and moves last: if it is there, all files are there, and all
    are of one save. `replaced` are patterns of files of an earlier save that would be taken for files of this one:
    those that `write` does not write are removed. Other files stay.

    Raises:
        UserError: where the disk does not take the files; `folder` is then as it was.
    """
    temporary = folder / SAVING
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        flush_to_disk(*temporary.rglob("*"), temporary)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError | RuntimeError | SafetensorError):
            raise
        raise UserError(
            f"The model could not be saved in {folder} ({write_failure(error)}); what was there is kept. Make room, "
            "and save it again: a training does so with `resume`."
        ) from None
    names = {path.name for path in temporary.iterdir()}
    (folder / marker).unlink(missing_ok=True)
    for path in {path for pattern in replaced for path in folder.glob(pattern)}:
        if path.name not in names:
            path.unlink()
    flush_to_disk(folder)
    for name in sorted(names - {marker}):
        if (temporary / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
        os.replace(temporary / name, folder / name)
    flush_to_disk(folder)
    os.replace(temporary / marker, folder / marker)
    temporary.rmdir()
    flush_to_disk(folder)
