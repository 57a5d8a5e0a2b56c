"""The folder of a run: one program at a time writes to it, and only a run of the same settings continues in it."""

from pathlib import Path
from typing import Any

from vqlm.training.config import TrainingConfig
from vqlm.training.folders.checkpoint import Checkpoint
from vqlm.training.folders.folder_lock import FolderLock
from vqlm.training.folders.output_folder import holds_a_beginning, require_empty
from vqlm.training.folders.same_run import flatten, require_same_run
from vqlm.training.folders.whole_files import read_json, write_json


class RunFolder:
    """`run/` in the folder of a stage. Only the main process calls what is here.

    Args:
        output: folder of the stage.
        checkpoint: of the run.
    """

    def __init__(self, output: Path, checkpoint: Checkpoint):
        self.output, self.folder, self.checkpoint = output, output / "run", checkpoint
        self._lock = FolderLock(self.folder, output)

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
        self._lock.take()
        said = []
        if holds_a_beginning(self.output):
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
        self._lock.release()
