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
        batch_size: rows per process that are computed at once.
        gradient_accumulation_steps: batches per optimizer step, which learns from all of them as from one larger batch.
        learning_rate: peak of the schedule.
        warmup_ratio: share of the budget over which the learning rate rises to its peak.
        schedule: after the warm-up the learning rate falls in a straight line ("linear") or along half a cosine
            ("cosine"), or stays ("constant").
        min_learning_rate_ratio: share of its peak to which the learning rate falls.
        weight_decay: decoupled weight decay.
        beta2: AdamW's decay of the second moment.
        max_grad_norm: gradients are scaled down to this norm.
        mixed_precision: "bf16", "fp16", "no" for fp32, or "auto": bf16 where the device multiplies it fast, else fp16
            on a GPU that multiplies that fast, else "no".
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
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    warmup_ratio: float = 0.03
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    min_learning_rate_ratio: float = 0.0
    weight_decay: float = 0.0
    beta2: float = 0.99
    max_grad_norm: float = 1.0
    mixed_precision: Literal["auto", "bf16", "fp16", "no"] = "auto"
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
            "gradient_accumulation_steps",
            "learning_rate",
            "max_grad_norm",
            "log_every",
            "eval_every",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} must be above 0, found {value}.")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"`seed` must be a whole number from 0 to {2**31 - 1}, found {self.seed}.")
        for name in ("warmup_ratio", "min_learning_rate_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must lie in [0, 1), found {getattr(self, name)}.")
        if self.schedule == "constant" and self.min_learning_rate_ratio:
            raise UserError(
                f"min_learning_rate_ratio {self.min_learning_rate_ratio} has no effect with the constant schedule; "
                "leave it out, or take linear or cosine."
            )
