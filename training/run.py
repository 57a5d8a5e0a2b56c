"""One training run: its folder, its batches, its steps. Knows neither pictures nor text.

A stage keeps its loop in plain view and asks the run for batches, for a step and for where to write:

    run = Run(output, "train_vq", config, settings, resume)
    model, optimizer, loader = run.prepare(model, optimizer, loader)
    for batch in run.batches(loader):
        loss = ...
        run.step(loss, model, optimizer)
        run.log(loss=loss)
    run.finish(**figures)

Inside the stage's folder, `run/` holds what belongs to the run and not to the model: `settings.json`, `log.jsonl`,
`checkpoint/`, the one before it, `samples/` and, once finished, `summary.json`. While it goes on, `lock` keeps other
programs out.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import skip_first_batches
from accelerate.utils import broadcast, set_seed
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from vqlm.training.budget import budget_text, ends_interval, schedule, share_of_budget
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.folders.checkpoint import Checkpoint, RunState
from vqlm.training.folders.run_folder import RunFolder
from vqlm.training.folders.same_run import BUDGET_SETTINGS, flatten
from vqlm.training.folders.whole_files import read_json, write_json
from vqlm.training.machine.allocator import keep_freed_memory, return_freed_memory
from vqlm.training.machine.distributed import sum_over_processes
from vqlm.training.machine.processes import decided_by_main, describe_training, rows_per_step, start_accelerator
from vqlm.training.machine.sharding import ShardedState, launcher_sharding, shard
from vqlm.training.optimization.gradients import Gradients
from vqlm.training.optimization.weight_average import WeightAverage
from vqlm.training.rows_of_step import rows_of_batches
from vqlm.training.skipped_steps import SkippedSteps
from vqlm.training.stop_signals import Interrupted, StopSignals
from vqlm.training.watching.figures import Figures
from vqlm.training.watching.log import TrainingLog
from vqlm.training.watching.progress import Progress, format_seconds
from vqlm.training.watching.samples import Samples, SampleSource
from vqlm.training.watching.trackers import Trackers


class Run:
    """See the module.

    Args:
        output: folder of the stage; the run's own files go to `run/` in it.
        name: of the stage, in messages.
        config: budget, schedule, seed and the like.
        settings: everything that decides the result, JSON values or settings dataclasses by name; those of `config`
            by themselves. Only a run of the same settings is continued.
        resume: continue the run in `output`, if there is one.
        num_rows: rows to train on, where they are known before.

    Raises:
        UserError: if `output` holds a run of other settings, or any files without `resume`, or a run of another
            program that goes on; for a precision or a number of processes that do not fit the machine or the rows.
    """

    def __init__(
        self,
        output: Path,
        name: str,
        config: TrainingConfig,
        settings: dict[str, Any],
        resume: bool,
        num_rows: int | None = None,
    ):
        self.output, self.folder, self.config = Path(output), Path(output) / "run", config
        self.accelerator = start_accelerator(config)
        self.sharding = launcher_sharding()
        if num_rows is not None and num_rows < self.accelerator.num_processes:
            raise UserError(_too_few(num_rows, self.accelerator.num_processes))
        self.progress = Progress(name, self.accelerator.is_main_process)
        self.state, self._checkpoint = RunState(), Checkpoint(self.folder, self.accelerator)
        self._run_folder = RunFolder(self.output, self._checkpoint)
        self._claim_folder(settings, resume)
        set_seed(config.seed, device_specific=True)
        keep_freed_memory()
        self.is_finished = self._was_finished()
        self.is_resumed = self._checkpoint.exists
        self._log = TrainingLog(self.folder / "log.jsonl", self.accelerator.is_main_process)
        self._samples = Samples(self.folder / "samples", config.sample_every, self.accelerator.is_main_process)
        self._trackers, self._settings = Trackers(self.accelerator, config.log_with), flatten(settings)
        self._figures = Figures(self.accelerator, self._log, self._trackers, self.progress)
        self._skipped_steps = SkippedSteps(self.accelerator, self._log, self.progress)
        self._average: WeightAverage | None = None
        self._loader: DataLoader | None = None
        self._stop_signals = StopSignals()
        self._last_mark = self._last_checkpoint = time.monotonic()
        self._seconds_before = 0.0  # the step before the one at hand
        self._batches_of_step = self._first_step = 0
        self._checkpoint_step: int | None = None
        self._gradients: dict[int, Gradients] = {}

    # Set-up

    def _claim_folder(self, settings: dict[str, Any], resume: bool) -> None:
        num_processes = self.accelerator.num_processes if self.sharding is None else "any, by FSDP2"
        settings = settings | {"num_processes": num_processes}
        deciding = {key: value for key, value in settings.items() if key not in BUDGET_SETTINGS}
        said = decided_by_main(self.accelerator, lambda: self._run_folder.claim(deciding, self.config, resume))
        for sentence in said:
            self.progress.say(sentence)
        sees_it = torch.tensor(float((self.folder / "settings.json").exists()), device=self.accelerator.device)
        if sum_over_processes(sees_it).item() < self.accelerator.num_processes:
            raise UserError(f"{self.output} is not on a disk that all machines share; choose an `output` that is.")

    def _was_finished(self) -> bool:
        """Whether the run in the folder has spent the budget that is given now, which may be a larger one."""
        if not (self.folder / "summary.json").exists():
            return False
        summary = read_json(self.folder / "summary.json")
        return share_of_budget(self.config, summary["steps"], summary["seconds"]) >= 1

    def say_finished(self) -> None:
        """That there is nothing left to do, and what would change that."""
        summary = read_json(self.folder / "summary.json")
        self.progress.say(
            f"{self.output} is finished already, after {summary['steps']:,} steps in "
            f"{format_seconds(summary['seconds'])}; a larger `max_steps` or `max_minutes` continues it"
        )

    def shard(self, model: nn.Module, blocks: Iterable[nn.Module]) -> None:
        """Share out `model` among the processes where the launcher asks for FSDP2, before its optimizers are built.

        See `vqlm.training.machine.sharding.shard`.
        """
        if self.sharding is not None:
            shard(model, blocks, self.sharding, self.accelerator.device, self.accelerator.mixed_precision)

    def prepare(self, *objects: Any) -> Any:
        """`Accelerator.prepare`, then, for a run that is continued, the state of its checkpoint."""
        prepared = self._prepare_sharded(*objects) if self.sharding else self.accelerator.prepare(*objects)
        for part in prepared if len(objects) > 1 else [prepared]:
            if isinstance(part, nn.Module):
                self._gradients[id(part)] = Gradients(self.config.gradient_accumulation_steps, self._new_scaler())
                if self.config.weight_ema_decay and self._average is None:  # the first is the stage's model
                    self._average = WeightAverage(self.accelerator.unwrap_model(part), self.config.weight_ema_decay)
                    self.accelerator.register_for_checkpointing(self._average)
        if self.is_resumed:
            self.state = self._checkpoint.load()
            self._first_step = self.state.step
        self.state.share_among(self.accelerator.num_processes)
        self._seconds_before = self.state.seconds
        self._log.cut_after(self.state.step if self.is_resumed else -1)
        self._log.start_window(self.state)
        self._samples.continue_at(self.state.step, self.share)
        self._trackers.start(self.folder / "trackers", self.progress.name, self._settings)
        self.progress.say(describe_training(self.accelerator, self.config))
        if self.is_resumed:
            self.progress.say(f"continues at step {self.state.step}")
        return prepared

    def _prepare_sharded(self, *objects: Any) -> list[Any]:
        """The model is ready, and `ShardedState` saves it with its optimizers: accelerate gets the loader only."""
        (model,) = (part for part in objects if isinstance(part, nn.Module))
        self._checkpoint.sharded = ShardedState(model, [part for part in objects if isinstance(part, Optimizer)])
        return [self.accelerator.prepare(part) if isinstance(part, DataLoader) else part for part in objects]

    def _new_scaler(self) -> GradScaler | None:
        """A scaler of fp16 gradients, whose state is part of the checkpoint."""
        if self.accelerator.mixed_precision != "fp16":
            return None
        scaler = GradScaler(self.accelerator.device.type)
        self.accelerator.register_for_checkpointing(scaler)
        return scaler

    # The loop

    def batches(self, loader: DataLoader) -> Iterator[Any]:
        """Batches, epoch after epoch, until the budget is spent. Continues at the exact batch of a checkpoint."""
        if self.share < 1:
            self.progress.say(f"trains for {budget_text(self.config)}")
        self._loader = loader
        return_freed_memory()  # what the set-up took lies between the tensors of a step
        with self._stop_signals:
            self._last_mark = self._last_checkpoint = time.monotonic()
            while self.share < 1:
                loader.set_epoch(self.state.epoch)  # type: ignore[attr-defined]
                remaining = skip_first_batches(loader, self.state.batch) if self.state.batch else loader
                for batch in remaining:
                    with self._exchange():
                        yield batch
                    self._advance()
                    if self.share >= 1:
                        return
                if not self.state.batch:
                    raise UserError(_too_few(len(loader.dataset), self.accelerator.num_processes))  # type: ignore[arg-type]
                self.state.epoch, self.state.batch = self.state.epoch + 1, 0

    @property
    def is_accumulating(self) -> bool:
        """Whether more batches follow the one at hand before the weights move."""
        return self._batches_of_step + 1 < self.config.gradient_accumulation_steps

    def _exchange(self) -> contextlib.AbstractContextManager:
        """Processes exchange gradients at the last batch of a step only, when they are summed."""
        stack = contextlib.ExitStack()
        if self.is_accumulating:
            for model in self.accelerator._models:
                stack.enter_context(self.accelerator.no_sync(model))
        return stack

    def _advance(self) -> None:
        """Count the batch that the loop has just done, and the step it ends; log, save and stop where that is due."""
        self.state.batch += 1
        self._batches_of_step += 1
        if self._batches_of_step < self.config.gradient_accumulation_steps:
            return
        self._batches_of_step = 0
        now = time.monotonic()
        seconds = self.state.seconds + now - self._last_mark
        is_checkpoint_due = now - self._last_checkpoint > 60 * self.config.checkpoint_minutes
        self._last_mark = now
        # Clocks and signals differ between processes; the first one's decide for all.
        seconds, is_checkpoint_due, stop_signal = self._broadcast(
            seconds, float(is_checkpoint_due), float(self._stop_signals.received or 0)
        )
        is_log_due = ends_interval(
            self.config, self.config.log_interval, self.state.step + 1, self._seconds_before, self.state.seconds
        )
        self._seconds_before, self.state.seconds = self.state.seconds, seconds
        self.state.step += 1
        if self._average is not None:
            self._average.update()
        is_log_due = is_log_due or self.share >= 1
        if is_log_due:
            self._figures.write_means(self.state, self.share, rows_per_step(self.accelerator, self.config))
        if is_log_due or self.progress.is_due:
            self._figures.show(self.state.step, self.share, self._seconds_left)
        self._draw_samples()
        is_far_enough = self.state.step - self._first_step == self.config.stop_after and self.share < 1
        if is_checkpoint_due or stop_signal or is_far_enough:
            self.checkpoint()
        if stop_signal or is_far_enough:
            self._close()
            status = 128 + int(stop_signal) if stop_signal else 0
            raise Interrupted(status, f"{self.progress.name} stopped at step {self.state.step}")

    def _broadcast(self, *values: float) -> list[float]:
        """The values of the first process, on every process."""
        if self.accelerator.num_processes == 1:
            return list(values)
        agreed = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        broadcast(agreed)  # in place
        return agreed.tolist()

    def step(
        self,
        loss: Tensor,
        model: nn.Module,
        *optimizers: Optimizer,
        weight: Tensor | None = None,
        name: str | None = None,
    ) -> bool:
        """Backward; at the last batch of a step, clip, set the learning rate by the share of the budget spent, step.

        Args:
            loss: a mean over the batch.
            model: as `prepare` returned it.
            *optimizers: of the model.
            weight: what `loss` is a mean over, such as the number of labels, in any unit; where it differs between
                batches, the gradient of several batches or processes is that of their joint mean.
            name: of a further model, such as a discriminator, whose skipped steps are counted apart.

        Returns:
            False for a step whose gradient is not finite, which is skipped and counted; the log names its rows.

        Raises:
            UserError: after `skipped_steps.MAX_IN_A_ROW` such steps.
        """
        gradients = self._gradients.setdefault(id(model), Gradients(self.config.gradient_accumulation_steps, None))
        gradients.add(loss, weight)
        if self.is_accumulating:
            return True
        norm = gradients.finish(model, optimizers, self.config.max_grad_norm)
        is_finite = bool(torch.isfinite(norm))
        learning_rate = self.config.learning_rate * schedule(self.share, self.config)
        for optimizer in optimizers:
            if is_finite:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate
                optimizer.step()
            optimizer.zero_grad()
        if is_finite:
            gradients.skipped_in_a_row = 0
        else:
            self._skip(gradients, name)
        gradients.update_scale()
        return is_finite

    def _skip(self, gradients: Gradients, name: str | None) -> None:
        state = self.state
        state.count_skipped(name)
        if not gradients.can_lower_scale:  # else it is a matter of the scale, not of the rows
            rows = rows_of_batches(self._loader, state.epoch, state.batch - self._batches_of_step, state.batch + 1)
            self._skipped_steps.name_rows(rows, name, state, self.share)
        self._skipped_steps.require_few(gradients, state, self.config.learning_rate)

    @property
    def share(self) -> float:
        """The share of the budget spent, in [0, 1]."""
        return share_of_budget(self.config, self.state.step, self.state.seconds)

    @property
    def _seconds_left(self) -> float:
        return self.state.seconds * (1 - self.share) / max(self.share, 1e-9)

    def is_next_due(self, every: int | float) -> bool:
        """Whether the step at hand, which is not counted yet, ends an interval or a budget of steps.

        `every` is in steps, or below 1 a share of the budget. The time that the step itself takes is not known yet, so
        that a share of the budget's minutes is noticed one step later.
        """
        if self.is_accumulating:
            return False
        return ends_interval(self.config, every, self.state.step + 1, self._seconds_before, self.state.seconds)

    # What is written

    def log(self, **figures: Tensor | float) -> None:
        """Figures of this step; their means are logged every `log_every`, without a wait for the device."""
        self._log.add(figures)

    def report(self, **figures: float) -> None:
        """Figures that are logged and shown at once, such as those of a held-out evaluation."""
        self._figures.report(figures, self.state.step + 1, self.state.seconds, self.share)

    @property
    def final_report(self) -> dict[str, float] | None:
        """The figures of `report` at the last step, after which no weight has moved; None if it had none."""
        has_average = self._average is not None  # which has moved since
        return None if has_average else self._figures.reported_at(self.state.step)

    def show_samples(self, source: SampleSource | None) -> None:
        """Draw from `source` from now on, in the main process, every `sample_every` of the budget; None draws none."""
        self._samples.begin(source)

    def _draw_samples(self) -> None:
        state = self.state
        with self.averaged_weights():
            row = self._samples.add_row(state.step, self.share, state.seconds, state.sample_seconds)
        if row is not None:
            self._trackers.log_row(row, state.step)
            state.sample_seconds += self._samples.last_seconds

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the stage's model has the average of its weights, where `weight_ema_decay` asks for one."""
        with contextlib.nullcontext() if self._average is None else self._average.in_use():
            yield

    def checkpoint(self) -> None:
        """Save the whole state. The last checkpoint is kept beside it, in case the disk damages the new one."""
        if self._checkpoint_step == self.state.step:
            return
        began = time.monotonic()
        self._checkpoint.save(self.state)
        self._checkpoint_step, self._last_checkpoint = self.state.step, time.monotonic()
        self.state.checkpoint_seconds += self._last_checkpoint - began

    def summary(self, **figures: Any) -> dict[str, Any]:
        """Steps, seconds, `figures` and skipped steps: the record that a finished artefact keeps of its training."""
        state = self.state
        skipped = {"skipped_steps": state.skipped} | {
            f"skipped_steps_{name}": n for name, n in state.skipped_of.items()
        }
        seconds = {name: round(getattr(state, name), 1) for name in ("seconds", "checkpoint_seconds", "sample_seconds")}
        return {"steps": state.step, **seconds, **figures, **skipped}

    def finish(self, **figures: Any) -> None:
        """Close the run: the last checkpoint and `summary.json`. Its model has the averaged weights from now on."""
        self.checkpoint()
        if self.accelerator.is_main_process:
            write_json(self.folder / "summary.json", self.summary(**figures))
        self.accelerator.wait_for_everyone()  # all read the finished folder next
        spent, seconds = self.state.checkpoint_seconds + self.state.sample_seconds, max(self.state.seconds, 1e-9)
        self.progress.say(
            f"checkpoints took {self.state.checkpoint_seconds:.1f} s and samples {self.state.sample_seconds:.1f} s, "
            f"{spent / seconds:.1%} of {format_seconds(seconds)}"
        )
        self._close()
        self._run_folder.release()
        if self._average is not None:
            self._average.swap()

    def _close(self) -> None:
        self._trackers.finish()
        self.progress.close()


def _too_few(num_rows: int, num_processes: int) -> str:
    return (
        f"{num_rows} rows are too few for {num_processes} processes; start at most one process per row, or give more "
        "rows."
    )
