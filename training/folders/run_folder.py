"""The folder of a run: one program at a time writes to it, and only a run of the same settings continues in it."""

import os
import platform
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.folders.checkpoint import Checkpoint
from vqlm.training.folders.output_folder import require_empty
from vqlm.training.folders.same_run import flatten, require_same_run
from vqlm.training.folders.whole_files import read_json, write_json

LOCK_FILE = "lock"
# Seconds to wait for the lock: the workers of a killed program hold it until they notice.
LOCK_PATIENCE = 10.0
# What a run that was killed before its first checkpoint leaves.
BEGINNINGS = {
    LOCK_FILE, "settings.json", "settings.json.tmp", "log.jsonl", "log.jsonl.tmp", "checkpoint.tmp", "samples",
    "trackers",
}  # fmt: skip


class RunFolder:
    """`run/` in the folder of a stage. Only the main process calls what is here.

    Args:
        output: folder of the stage.
        checkpoint: of the run.
    """

    def __init__(self, output: Path, checkpoint: Checkpoint):
        self.output, self.folder, self.checkpoint = output, output / "run", checkpoint
        self._lock: FileLock | None = None

    def claim(self, deciding: dict[str, Any], config: TrainingConfig, resume: bool) -> list[str]:
        """Take the folder for a run, new or continued. Returns sentences about that for the log.

        Args:
            deciding: the settings that decide the result, as `require_same_run` takes them.
            config: settings of the training, which stand in `deciding` at the top, not as a part.
            resume: whether to continue the run in the folder, if there is one.

        Raises:
            UserError: for a folder that holds files of another kind, a run of other settings, a run without
                `resume`, a run that another program is writing, or no whole checkpoint.
        """
        if not self.folder.exists():
            require_empty(self.output)
        self._take_lock()
        said = []
        if self._holds_a_beginning():
            if (self.folder / "settings.json").exists():
                said.append("the run here had no checkpoint yet; starts over")
            write_json(self.folder / "settings.json", flatten(deciding))
            return said
        if not resume or not (self.folder / "settings.json").exists():
            require_empty(self.output)
        earlier = {"num_processes": deciding["num_processes"]} | read_json(self.folder / "settings.json")
        require_same_run(self.output, earlier, deciding, config)
        if (sentence := self.checkpoint.recover()) is not None:
            said.append(sentence)
        return said

    def release(self) -> None:
        """Let other programs write to the folder."""
        if self._lock is not None:
            self._lock.release(force=True)  # a try with a larger batch size took it too
            self._lock = None

    def _take_lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LOCK_FILE
        owner = path.read_text() if path.exists() else ""  # read before locking, which empties the file
        lock = FileLock(path, timeout=LOCK_PATIENCE, is_singleton=True)
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
        path.write_text(f"process {os.getpid()} on {platform.node()}")

    def _holds_a_beginning(self) -> bool:
        """Whether nothing would be lost by starting here: no files, or a run without a checkpoint."""
        others = {path.name for path in self.output.iterdir()} - {self.folder.name}
        return not others and {path.name for path in self.folder.iterdir()} <= BEGINNINGS
