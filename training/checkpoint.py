"""The checkpoint of a run: weights, optimizers, random states and counters, as one folder that is whole or absent."""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator
from vqlm.training.files import read_json, write_json

STATE_FILE = "state.json"


@dataclass
class RunState:
    """The counters of a run: all that a checkpoint needs beside weights, optimizers and random states.

    step: optimizer steps done, the skipped ones included. epoch, batch: the place in the data. seconds: time spent in
    the loop. skipped: steps without a finite gradient.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    skipped: int = 0


class Checkpoint:
    """`checkpoint/` in the folder of a run. A new one is written beside the last one, then replaces it."""

    def __init__(self, run_folder: Path, accelerator: Accelerator):
        names = ("checkpoint", "checkpoint.tmp", "checkpoint.old")
        self.folder, self.new, self.previous = (run_folder / name for name in names)
        self.accelerator = accelerator

    @property
    def exists(self) -> bool:
        return (self.folder / STATE_FILE).exists()

    def recover(self) -> None:
        """Restore the previous checkpoint if the run stopped between the two renames of `save`. One process only."""
        if self.previous.exists() and not self.folder.exists():
            os.replace(self.previous, self.folder)

    def save(self, state: RunState) -> None:
        """Write the state of all that the accelerator has prepared, and `state`. All processes call it."""
        self.accelerator.save_state(str(self.new))
        self.accelerator.wait_for_everyone()  # each process has written its random state
        if self.accelerator.is_main_process:
            write_json(self.new / STATE_FILE, asdict(state))
            shutil.rmtree(self.previous, ignore_errors=True)
            if self.folder.exists():
                os.replace(self.folder, self.previous)
            os.replace(self.new, self.folder)
            shutil.rmtree(self.previous, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def load(self) -> RunState:
        """Restore what the accelerator has prepared. Returns the counters."""
        self.accelerator.load_state(str(self.folder))
        return RunState(**read_json(self.folder / STATE_FILE))
