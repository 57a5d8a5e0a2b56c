"""One training run: its budget, its checkpoints, its log. Knows neither pictures nor text.

A stage keeps its loop in plain view and asks the run for batches, for the schedule and for where to write:

    run = Run(output, "train_vq", config, settings, resume)
    model, optimizer, loader = run.prepare(model, optimizer, loader)
    for batch in run.batches(loader):
        loss = ...
        run.step(loss, model, optimizer)
        run.log(loss=loss)
    run.finish(**figures)

Inside the stage's folder, `run/` holds what belongs to the run and not to the model: `settings.json`, `log.jsonl`,
`checkpoint/` and, once finished, `summary.json`.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState, skip_first_batches
from accelerate.utils import DataLoaderConfiguration, broadcast, set_seed
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from vqlm.training.allocator import keep_freed_memory
from vqlm.training.config import TrainingConfig
from vqlm.training.device import is_bf16_fast
from vqlm.training.errors import UserError
from vqlm.training.files import read_json, require_empty, require_same_settings, write_json
from vqlm.training.old_names import with_new_names
from vqlm.training.progress import Progress

BUDGET_SETTINGS = (
    "max_steps",
    "max_minutes",
    "log_every",
    "eval_every",
    "checkpoint_minutes",
    "num_workers",
    "compile",
)


# So many steps in a row without a finite gradient are not bad luck.
MAX_SKIPPED_IN_A_ROW = 10


class Interrupted(SystemExit):
    """The run was asked to stop; a checkpoint holds it. Ends a script with the exit status of a signal."""


@dataclass
class RunState:
    """All that a checkpoint needs beside weights, optimizer and random states."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    skipped: int = 0


class Run:
    """See the module. `settings` is everything that decides the result, by which a run is recognised again.

    Raises UserError if `output` holds another run, or any run without `resume`.
    """

    def __init__(self, output: Path, name: str, config: TrainingConfig, settings: dict[str, Any], resume: bool):
        self.output, self.folder, self.config = Path(output), Path(output) / "run", config
        self.accelerator = Accelerator(
            mixed_precision=_mixed_precision(config.mixed_precision),
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=config.seed),
        )
        self._claim_folder(settings, resume)
        set_seed(config.seed, device_specific=True)
        keep_freed_memory()
        self.state = RunState()
        self.is_finished = (self.folder / "summary.json").exists() and self._share_of_finished() >= 1
        self.is_resumed = (self.folder / "checkpoint" / "state.json").exists()
        self.progress = Progress(name, self.accelerator.is_main_process)
        self._window: dict[str, list[Tensor | float]] = {}
        self._window_start = (0, 0.0)
        self._last_mark = self._last_checkpoint = time.monotonic()
        self._stop_signal: int | None = None
        self._skipped_in_a_row = 0

    # Set-up

    def _claim_folder(self, settings: dict[str, Any], resume: bool) -> None:
        wanted = {key: value for key, value in _flatten(settings).items() if key not in BUDGET_SETTINGS}
        with self.accelerator.main_process_first():
            if not self.accelerator.is_main_process:
                return
            final, old = self.folder / "checkpoint", self.folder / "checkpoint.old"
            if old.exists() and not final.exists():  # stopped between the two renames of `checkpoint`
                os.replace(old, final)
            if resume and (self.folder / "settings.json").exists():
                earlier = with_new_names(read_json(self.folder / "settings.json"))
                require_same_settings(self.output, earlier, wanted)
            else:
                require_empty(self.output)
                write_json(self.folder / "settings.json", wanted)

    def _share_of_finished(self) -> float:
        summary = read_json(self.folder / "summary.json")
        return self._share(summary["steps"], summary["seconds"])

    def prepare(self, *objects: Any) -> Any:
        """`Accelerator.prepare`, then, for a run that is continued, the state of its checkpoint."""
        prepared = self.accelerator.prepare(*objects)
        if self.is_resumed:
            checkpoint = self.folder / "checkpoint"
            self.accelerator.load_state(str(checkpoint))
            self.state = RunState(**read_json(checkpoint / "state.json"))
            self._cut_log()
            self.progress.say(f"continues at step {self.state.step}")
        self._window_start = (self.state.step, self.state.seconds)
        return prepared

    # The loop

    def batches(self, loader: DataLoader) -> Iterator[Any]:
        """Batches, epoch after epoch, until the budget is spent. Continues at the exact batch of a checkpoint."""
        with _NotedSignals(self):
            self._last_mark = self._last_checkpoint = time.monotonic()
            while self.share < 1:
                loader.set_epoch(self.state.epoch)  # type: ignore[attr-defined]
                remaining = skip_first_batches(loader, self.state.batch) if self.state.batch else loader
                steps_before = self.state.step
                for batch in remaining:
                    yield batch
                    self._advance()
                    if self.share >= 1:
                        return
                if self.state.step == steps_before and not self.state.batch:
                    raise UserError(
                        f"{len(loader.dataset)} rows are too few for {self.accelerator.num_processes} processes; "  # type: ignore[arg-type]
                        "use fewer processes or a smaller --batch-size."
                    )
                self.state.epoch, self.state.batch = self.state.epoch + 1, 0

    def _advance(self) -> None:
        now = time.monotonic()
        seconds = self.state.seconds + now - self._last_mark
        is_checkpoint_due = now - self._last_checkpoint > 60 * self.config.checkpoint_minutes
        self._last_mark = now
        # Clocks and signals differ between processes; the first one's decide for all.
        self.state.seconds, is_checkpoint_due, stop_signal = self._of_first_process(
            seconds, float(is_checkpoint_due), float(self._stop_signal or 0)
        )
        self.state.step += 1
        self.state.batch += 1
        if self.due(self.config.log_every):
            self._flush_log()
        if is_checkpoint_due or stop_signal:
            self.checkpoint()
        if stop_signal:
            self.progress.say(f"stopped at step {self.state.step}; --resume continues it")
            raise Interrupted(128 + int(stop_signal))

    def _of_first_process(self, *values: float) -> list[float]:
        if self.accelerator.num_processes == 1:
            return list(values)
        agreed = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        broadcast(agreed)  # in place
        return agreed.tolist()

    def step(self, loss: Tensor, model: nn.Module, *optimizers: Optimizer) -> bool:
        """Backward, clip, set the learning rate by the share of the budget spent, step.

        A step whose gradient is not finite is skipped and counted, and False returned. Raises UserError after
        `MAX_SKIPPED_IN_A_ROW` of them.
        """
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(model.parameters(), self.config.max_grad_norm)
        if norm is not None and not torch.isfinite(norm):
            self._skip(optimizers)
            return False
        self._skipped_in_a_row = 0
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * schedule(self.share, self.config)
            optimizer.step()
            optimizer.zero_grad()
        return True

    def _skip(self, optimizers: tuple[Optimizer, ...]) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.state.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise UserError(
                f"{MAX_SKIPPED_IN_A_ROW} steps in a row gave a gradient that is not finite, the last at step "
                f"{self.state.step + 1}; stopped. Start anew with a lower learning_rate (it is "
                f"{self.config.learning_rate:g}), a longer warmup_ratio, lower weights of the losses added last, or "
                "mixed_precision no, into another folder."
            )

    @property
    def share(self) -> float:
        """The share of the budget spent, in [0, 1]."""
        return self._share(self.state.step, self.state.seconds)

    def _share(self, steps: int, seconds: float) -> float:
        shares = [0.0]
        if self.config.max_steps is not None:
            shares.append(steps / self.config.max_steps)
        if self.config.max_minutes is not None:
            shares.append(seconds / 60 / self.config.max_minutes)
        return min(1.0, max(shares))

    def due(self, every: int) -> bool:
        """Whether the step at hand is a multiple of `every`, or the budget's last."""
        return self.state.step % every == 0 or self.share >= 1

    def is_next_due(self, every: int) -> bool:
        """As `due`, asked inside the loop's body, before the step is counted."""
        step = self.state.step + 1
        return step % every == 0 or self._share(step, self.state.seconds) >= 1

    # What is written

    def log(self, **figures: Tensor | float) -> None:
        """Figures of this step; their means are logged every `log_every` steps, without a wait for the device."""
        for name, value in figures.items():
            self._window.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)

    def report(self, **figures: float) -> None:
        """Figures that are logged at once and said aloud, such as those of a held-out evaluation."""
        self._write_line(figures, self.state.step + 1)
        self.progress.say(f"step {self.state.step + 1}: " + _format(figures))

    def _flush_log(self) -> None:
        figures = {name: float(sum(map(float, values)) / len(values)) for name, values in self._window.items()}
        start_step, start_seconds = self._window_start
        elapsed = max(self.state.seconds - start_seconds, 1e-9)
        rate = (self.state.step - start_step) * self.config.batch_size * self.accelerator.num_processes / elapsed
        figures["rows_per_second"] = rate
        if self.state.skipped:
            figures["skipped_steps"] = self.state.skipped
        self._window, self._window_start = {}, (self.state.step, self.state.seconds)
        self._write_line(figures, self.state.step)
        left = self.state.seconds * (1 - self.share) / max(self.share, 1e-9)
        self.progress.show(self.share, left, f"step {self.state.step}  " + _format(figures))

    def _write_line(self, figures: dict[str, float], step: int) -> None:
        if self.accelerator.is_main_process:
            line = {"step": step, "seconds": round(self.state.seconds, 2), **figures}
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _cut_log(self) -> None:
        """Forget what was logged after the checkpoint; it will be logged again."""
        log = self.folder / "log.jsonl"
        if self.accelerator.is_main_process and log.exists():
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            log.write_text("".join(line for line in lines if json.loads(line)["step"] <= self.state.step))

    def checkpoint(self) -> None:
        """Save the whole state beside the last checkpoint, then take its place."""
        final, temporary, old = (self.folder / name for name in ("checkpoint", "checkpoint.tmp", "checkpoint.old"))
        self.accelerator.save_state(str(temporary))
        self.accelerator.wait_for_everyone()  # each process has written its random state
        if self.accelerator.is_main_process:
            write_json(temporary / "state.json", asdict(self.state))
            shutil.rmtree(old, ignore_errors=True)
            if final.exists():
                os.replace(final, old)
            os.replace(temporary, final)
            shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._last_checkpoint = time.monotonic()

    def finish(self, **summary: Any) -> None:
        """Close the run: the last checkpoint and `summary.json`."""
        self.checkpoint()
        if self.accelerator.is_main_process:
            figures = {"steps": self.state.step, "seconds": round(self.state.seconds, 1), **summary}
            figures["skipped_steps"] = self.state.skipped
            write_json(self.folder / "summary.json", figures)
        self.progress.close()


class _NotedSignals:
    """While the loop runs, SIGINT and SIGTERM end it after the step at hand; a second one ends it at once."""

    def __init__(self, run: Run):
        self.run = run

    def __enter__(self):
        try:
            self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: the caller keeps its own handling
            self.before = {}

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        if self.run._stop_signal is not None:
            raise KeyboardInterrupt
        self.run._stop_signal = number


def schedule(share: float, config: TrainingConfig) -> float:
    """The learning rate's factor at a share of the budget: rises over the warm-up, then falls to zero or stays."""
    if share < config.warmup_ratio:
        return share / config.warmup_ratio
    return 1.0 if config.schedule == "constant" else (1 - share) / (1 - config.warmup_ratio)


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model": {"width": 3}} -> {"model.width": 3}, as an option would name it and as JSON would hold it."""
    flat = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return json.loads(json.dumps(flat))


def _mixed_precision(wanted: str) -> str:
    if wanted == "auto":
        return "bf16" if is_bf16_fast(torch.device(PartialState().device or "cpu")) else "no"
    return wanted


def _format(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
