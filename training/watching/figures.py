"""The figures of a run on their way to its log, its trackers and its line of progress."""

import torch
from accelerate import Accelerator

from vqlm.training.folders.checkpoint import RunState
from vqlm.training.machine.distributed import mean_over_processes
from vqlm.training.watching.log import TrainingLog, format_figures
from vqlm.training.watching.progress import Progress
from vqlm.training.watching.trackers import Trackers


class Figures:
    """Means of the steps since the last line of the log, and figures that are reported at once."""

    def __init__(self, accelerator: Accelerator, log: TrainingLog, trackers: Trackers, progress: Progress):
        self.accelerator, self.log, self.trackers, self.progress = accelerator, log, trackers, progress
        self._means_text = self._held_out_text = ""
        self._reported: tuple[int, dict[str, float]] | None = None

    def write_means(self, state: RunState, share: float, rows_per_step: int) -> None:
        """A line of the log, with the means over the steps since the last one and over the processes.

        Args:
            state: after the step.
            share: of the budget.
            rows_per_step: of all processes.
        """
        figures = self.log.close_window(state, rows_per_step)
        if self.accelerator.num_processes > 1:
            values = torch.tensor(list(figures.values()), device=self.accelerator.device)
            figures = dict(zip(figures, mean_over_processes(values).tolist(), strict=True))
        self.log.write(figures, state.step, state.seconds, share)
        self.trackers.log(figures, state.step)
        self._means_text = "  " + format_figures(figures)

    def report(self, figures: dict[str, float], step: int, seconds: float, share: float) -> None:
        """Log and say figures at once, such as those of a held-out evaluation. The first one stays in view."""
        self._reported = step, figures
        self.log.write(figures, step, seconds, share)
        self.trackers.log(figures, step)
        self.progress.say(f"step {step}: " + format_figures(figures))
        self._held_out_text = "  " + format_figures(dict(list(figures.items())[:1]))

    def reported_at(self, step: int) -> dict[str, float] | None:
        """The figures that were reported last, if that was at `step`."""
        return self._reported[1] if self._reported is not None and self._reported[0] == step else None

    def show(self, step: int, share: float, seconds_left: float) -> None:
        """The figures of the last line of the log and the last held-out one, with the time left."""
        self.progress.show(share, seconds_left, f"step {step}{self._means_text}{self._held_out_text}")
