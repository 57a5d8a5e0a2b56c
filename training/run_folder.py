"""Whose run a folder holds: one program at a time writes to it, and only a run of the same settings goes on in it."""

import os
import platform
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from vqlm.training.checkpoint import Checkpoint
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.files import read_json, require_empty, require_same_settings, write_json
from vqlm.training.old_names import comparable

LOCK_FILE = "lock"
# The workers of a killed program hold its lock until they notice.
LOCK_PATIENCE = 10.0
# What a run leaves that was killed before its first checkpoint.
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
        """Take the folder for a run, new or continued. Returns what there is to say about that.

        Args:
            deciding: the settings that decide the result, flat.
            config: a setting of it that an older version did not have was at its default there.
            resume: whether to continue the run in the folder, if there is one.

        Raises:
            UserError: for a folder that holds files of another kind, a run of other settings, a run without
                `resume`, a run that goes on in another program, or no whole checkpoint.
        """
        if not self.folder.exists():
            require_empty(self.output)
        self._take_lock()
        said = []
        if self._holds_a_beginning():
            if (self.folder / "settings.json").exists():
                said.append("the run here had no checkpoint yet; starts over")
            write_json(self.folder / "settings.json", deciding)
            return said
        if not resume or not (self.folder / "settings.json").exists():
            require_empty(self.output)
        earlier = comparable(read_json(self.folder / "settings.json"), deciding)
        require_same_settings(self.output, _defaults(config, deciding) | earlier, deciding)
        if (sentence := self.checkpoint.recover()) is not None:
            said.append(sentence)
        return said

    def release(self) -> None:
        """Let other programs write to the folder."""
        if self._lock is not None:
            self._lock.release(force=True)  # a try with a larger batch took it too
            self._lock = None

    def _take_lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LOCK_FILE
        owner = path.read_text() if path.exists() else ""  # before a try to lock, which empties the file
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


def _defaults(config: TrainingConfig, deciding: dict[str, Any]) -> dict[str, Any]:
    """Defaults of the settings of `config` that are in `deciding`; the number of processes as it is."""
    known = {field.name: field.default for field in fields(config) if field.default is not MISSING}
    return {name: known.get(name, deciding[name]) for name in deciding if name in known or name == "num_processes"}
