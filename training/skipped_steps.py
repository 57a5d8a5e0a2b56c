"""Steps whose gradient is not finite: their rows are named, and too many of them in a row end the run."""

from accelerate import Accelerator
from accelerate.utils import gather_object

from vqlm.training.errors import UserError
from vqlm.training.folders.checkpoint import RunState
from vqlm.training.optimization.gradients import Gradients
from vqlm.training.watching.log import TrainingLog
from vqlm.training.watching.progress import Progress

# So many steps in a row without a finite gradient are not bad luck.
MAX_IN_A_ROW = 10
# Rows of a skipped step that are told; the log has all of them.
ROWS_SAID = 8


class SkippedSteps:
    """Tells of the skipped steps of a run in its log and its progress."""

    def __init__(self, accelerator: Accelerator, log: TrainingLog, progress: Progress):
        self.accelerator, self.log, self.progress = accelerator, log, progress

    def name_rows(self, rows: list[int], name: str | None, state: RunState, share: float) -> None:
        """Write and say which rows of the training set gave a gradient that is not finite.

        Args:
            rows: of this process.
            name: of a further model, None for the stage's.
            state: before the step is counted.
            share: of the budget.
        """
        if self.accelerator.num_processes > 1:
            rows = gather_object(rows)
        step, of = state.step + 1, "" if name is None else f" of the {name}"
        self.log.write({"skipped": name or "model", "rows": rows}, step, state.seconds, share)
        said = ", ".join(map(str, rows[:ROWS_SAID])) + (f" and {len(rows) - ROWS_SAID} more" * (len(rows) > ROWS_SAID))
        self.progress.say(f"step {step}{of} is skipped: its gradient is not finite; rows {said or 'unknown'}")

    def require_few(self, gradients: Gradients, state: RunState, learning_rate: float) -> None:
        """Raises UserError after `MAX_IN_A_ROW` steps of one model that a lower scale of fp16 does not help."""
        gradients.skipped_in_a_row += not gradients.can_lower_scale
        if gradients.skipped_in_a_row >= MAX_IN_A_ROW:
            raise UserError(
                f"{MAX_IN_A_ROW} steps in a row gave a gradient that is not finite, the last at step "
                f"{state.step + 1}; the training stopped. Start it again in another folder with a lower "
                f"`learning_rate` (it is {learning_rate:g}), a longer `warmup_ratio`, lower weights of the "
                "losses added last, or `mixed_precision` no."
            )
