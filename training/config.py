"""The settings of a training run that both stages share."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from vqlm.training.errors import UserError

OptimizerName = Literal["muon", "adamw"]


@dataclass(kw_only=True)
class TrainingConfig:
    """A budget is steps or minutes, whichever ends first; with neither given it is the stage's own number of steps.

    Args:
        max_steps: optimizer steps to train for.
        max_minutes: minutes to train for.
        batch_size: rows per step and process.
        learning_rate: peak of the schedule.
        warmup_ratio: share of the budget over which the learning rate rises to its peak.
        schedule: after the warm-up the learning rate falls to zero ("linear") or stays ("constant").
        weight_decay: decoupled weight decay.
        beta2: AdamW's decay of the second moment.
        max_grad_norm: gradients are scaled down to this norm.
        mixed_precision: "bf16", "no", or "auto" for bf16 where the device multiplies it fast.
        seed: decides initial weights, order of rows, dropout and noise.
        num_workers: processes that load rows ahead; 0 loads in the training process.
        log_every: steps between log lines.
        eval_every: steps between held-out evaluations.
        checkpoint_minutes: minutes between checkpoints.
    """

    default_steps: ClassVar[int] = 1000

    max_steps: int | None = None
    max_minutes: float | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup_ratio: float = 0.03
    schedule: Literal["linear", "constant"] = "linear"
    weight_decay: float = 0.0
    beta2: float = 0.99
    max_grad_norm: float = 1.0
    mixed_precision: Literal["auto", "bf16", "no"] = "auto"
    seed: int = 0
    num_workers: int = 0
    log_every: int = 50
    eval_every: int = 500
    checkpoint_minutes: float = 2.0

    def __post_init__(self):
        if self.max_steps is None and self.max_minutes is None:
            self.max_steps = self.default_steps
        for name in (
            "max_steps",
            "max_minutes",
            "batch_size",
            "learning_rate",
            "max_grad_norm",
            "log_every",
            "eval_every",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} must be above 0, found {value}.")
        if not 0 <= self.warmup_ratio < 1:
            raise UserError(f"warmup_ratio must lie in [0, 1), found {self.warmup_ratio}.")
