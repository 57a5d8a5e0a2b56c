"""The log of a run: one JSON line every few steps, with the means of the figures since the last line."""

import json
import math
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from vqlm.training.folders.checkpoint import RunState


class TrainingLog:
    """`log.jsonl`. Only the process that `writes` touches the file; all collect figures."""

    def __init__(self, path: Path, writes: bool):
        self.path, self.writes = path, writes
        self.start_window(RunState())

    def start_window(self, state: RunState) -> None:
        """Forget the collected figures; the next means and the next rate begin at `state`."""
        self._figures: dict[str, list[Tensor | float]] = {}
        self._start = (state.step, state.seconds)

    def add(self, figures: dict[str, Tensor | float]) -> None:
        """Collect the figures of one step, without a wait for the device."""
        for name, value in figures.items():
            self._figures.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)

    def close_window(self, state: RunState, rows_per_step: int) -> dict[str, float]:
        """The means of the figures since the last window, with the rate of rows; start the next window."""
        figures = {name: float(sum(map(float, values)) / len(values)) for name, values in self._figures.items()}
        step, seconds = self._start
        elapsed = max(state.seconds - seconds, 1e-9)
        figures["rows_per_second"] = (state.step - step) * rows_per_step / elapsed
        if state.skipped:
            figures["skipped_steps"] = state.skipped
        figures |= {f"skipped_steps_{name}": count for name, count in state.skipped_of.items()}
        self.start_window(state)
        return figures

    def write(self, figures: dict[str, Any], step: int, seconds: float, share: float) -> None:
        """Append one line; `share` is that of the budget."""
        if self.writes:
            line = {"step": step, "seconds": round(seconds, 2), "share": round(share, 4), **figures}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def cut_after(self, step: int) -> None:
        """Remove the lines after `step`, which a continued run writes again, and what a killed run left of a line."""
        if self.writes and self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            new = self.path.with_name(self.path.name + ".tmp")
            new.write_text("".join(line for line in lines if _step_of(line) <= step), encoding="utf-8")
            os.replace(new, self.path)


def _step_of(line: str) -> int | float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return math.inf


def format_figures(figures: dict[str, float]) -> str:
    """{"loss": 0.25, "psnr": 20.0} -> "loss 0.25  psnr 20"."""
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
