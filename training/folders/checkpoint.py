"""The checkpoints of a run: weights, optimizers, random states and counters, in folders that are whole or absent."""

import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError

from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import (
    checksum_of,
    flush_to_disk,
    follow_umask,
    read_json,
    write_failure,
    write_json,
)
from vqlm.training.machine.sharding import ShardedState

STATE_FILE, CHECKSUMS_FILE, SHARDED_FOLDER = "state.json", "checksums.json", "sharded"


@dataclass
class RunState:
    """The counters of a run: all that a checkpoint needs beside weights, optimizers and random states.

    Args:
        step: optimizer steps done, the skipped ones included.
        epoch: number of the epoch.
        batch: batches of the epoch that each process has read.
        seconds: time spent in the loop.
        skipped: steps of the stage's model without a finite gradient.
        skipped_of: the same for further models, such as a discriminator, by name.
        checkpoint_seconds: seconds that checkpoints took; sample_seconds: that samples took.
        num_processes: number of processes that `batch` was counted with; 0 before the first batch.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_of: dict[str, int] = field(default_factory=dict)
    checkpoint_seconds: float = 0.0
    sample_seconds: float = 0.0
    num_processes: int = 0

    def count_skipped(self, name: str | None) -> None:
        """Count a step without a finite gradient, of the stage's model or of a further one of this `name`."""
        if name is None:
            self.skipped += 1
        else:
            self.skipped_of[name] = self.skipped_of.get(name, 0) + 1

    def share_among(self, num_processes: int) -> None:
        """Convert `batch` to another number of processes, so that the same part of the epoch counts as read."""
        self.batch = self.batch * (self.num_processes or num_processes) // num_processes
        self.num_processes = num_processes


class Checkpoint:
    """`checkpoint/` in the folder of a run, and the one before it, `checkpoint.old/`.

    A new one is written as `checkpoint.tmp/` with checksums of its files, reaches the disk, and only then takes
    its name.
    """

    def __init__(self, run_folder: Path, accelerator: Accelerator):
        names = ("checkpoint", "checkpoint.tmp", "checkpoint.old", "checkpoint.damaged")
        self.folder, self.new, self.previous, self.damaged = (run_folder / name for name in names)
        self.accelerator = accelerator
        self.sharded: ShardedState | None = None

    @property
    def exists(self) -> bool:
        return (self.folder / STATE_FILE).exists()

    def recover(self) -> str | None:
        """Make the newest undamaged checkpoint the one that `load` reads, whatever a killed run or a disk left.

        One process calls it. Returns a sentence for the log if the newest one is damaged. Raises UserError if all are.
        """
        shutil.rmtree(self.new, ignore_errors=True)
        self._undo_rename()
        if not self.folder.exists() or (damage := find_damage(self.folder)) is None:
            return None
        if not self.previous.exists() or find_damage(self.previous) is not None:
            run_folder = self.folder.parent
            is_alone = {path.name for path in run_folder.parent.iterdir()} == {run_folder.name}
            again = (
                f"remove {run_folder} to start the training again" if is_alone else "train again in another `output`"
            )
            raise UserError(
                f"The checkpoint {self.folder} is damaged ({damage}), and there is no whole one before it; {again}."
            )
        shutil.rmtree(self.damaged, ignore_errors=True)
        os.replace(self.folder, self.damaged)
        os.replace(self.previous, self.folder)
        return f"the last checkpoint is damaged ({damage}), now {self.damaged}; continues from the one before it"

    def save(self, state: RunState) -> None:
        """Write the state of all that the accelerator has prepared, and `state`. All processes call it.

        Raises UserError, on all of them, where it cannot be written; the last checkpoint then stays.
        """
        failure = None
        try:
            self.accelerator.save_state(str(self.new))
            if self.sharded is not None:
                self.sharded.save(self.new / SHARDED_FOLDER)
        except (OSError, RuntimeError, SafetensorError) as error:
            failure = write_failure(error)
        self._require_written(failure, state)  # each process may have failed: it writes its random state
        if self.accelerator.is_main_process:
            try:
                self._finish(state)
            except OSError as error:
                failure = write_failure(error)
        self._require_written(failure, state)

    def load(self) -> RunState:
        """Restore what the accelerator has prepared. Returns the counters."""
        if self.sharded is not None:
            self.sharded.load(self.folder / SHARDED_FOLDER)
        self.accelerator.load_state(str(self.folder))
        return RunState(**read_json(self.folder / STATE_FILE))

    def _finish(self, state: RunState) -> None:
        write_json(self.new / STATE_FILE, asdict(state))
        follow_umask(*self.new.glob("*.safetensors"))
        files = sorted(path for path in self.new.rglob("*") if path.is_file())
        sums = {str(path.relative_to(self.new)): checksum_of(path) for path in files}
        write_json(self.new / CHECKSUMS_FILE, sums)
        flush_to_disk(*files, *{path.parent for path in files})
        shutil.rmtree(self.previous, ignore_errors=True)
        if self.folder.exists():
            os.replace(self.folder, self.previous)
        os.replace(self.new, self.folder)
        flush_to_disk(self.folder.parent)

    def _undo_rename(self) -> None:
        """If `save` stopped between its two renames, put the last checkpoint back."""
        if self.previous.exists() and not self.folder.exists():
            os.replace(self.previous, self.folder)

    def _require_written(self, failure: str | None, state: RunState) -> None:
        failures = gather_object([failure]) if self.accelerator.num_processes > 1 else [failure]
        if (reason := next(filter(None, failures), None)) is None:
            return
        if self.accelerator.is_main_process:
            shutil.rmtree(self.new, ignore_errors=True)
            self._undo_rename()
        kept = "the last one is kept. Make room and continue with `resume`" if self.exists else "there is none yet"
        raise UserError(
            f"The checkpoint of step {state.step} could not be written to {self.folder.parent} ({reason}); {kept}."
        )


def find_damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None. Checkpoints before 0.2.0 have no checksums and pass."""
    if not (folder / STATE_FILE).exists():
        return f"{STATE_FILE} is missing"
    if not (folder / CHECKSUMS_FILE).exists():
        return None
    try:
        sums = read_json(folder / CHECKSUMS_FILE)
    except UserError:
        return f"{CHECKSUMS_FILE} is not JSON"
    for name, expected in sums.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if checksum_of(folder / name) != expected:
            return f"{name} has changed"
    return None
