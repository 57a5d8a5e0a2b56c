"""Keeps other programs out of a folder while one writes to it."""

import os
import platform
from pathlib import Path

from filelock import FileLock, Timeout

from vqlm.training.errors import UserError

LOCK_FILE = "lock"
# Seconds to wait for the lock: the workers of a killed program hold it until they notice.
LOCK_PATIENCE = 10.0


class FolderLock:
    """The file `lock` in `folder`, which names the program that holds it; an error calls the folder `output`."""

    def __init__(self, folder: Path, output: Path):
        self.path, self.output = folder / LOCK_FILE, output
        self._lock: FileLock | None = None

    def take(self) -> None:
        """Make the folder, and wait for its lock. Raises UserError while another program holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        owner = self.path.read_text() if self.path.exists() else ""  # read before locking, which empties the file
        lock = FileLock(self.path, timeout=LOCK_PATIENCE, is_singleton=True)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"Another program{f' ({owner})' if owner else ''} writes to {self.output}; wait until it has ended, "
                "or choose another `output`."
            ) from None
        except OSError:  # a file system without locks
            return
        self._lock = lock
        self.path.write_text(f"process {os.getpid()} on {platform.node()}")

    def release(self, forever: bool = False) -> None:
        """Let other programs write to the folder; `forever` removes the file, once nothing more will be written."""
        if self._lock is None:
            return
        if forever:
            self.path.unlink(missing_ok=True)
        self._lock.release(force=True)  # a try with a larger batch size took it too
        self._lock = None
