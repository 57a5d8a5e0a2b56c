"""The settings of a training run that both stages share."""

import importlib.util
from dataclasses import dataclass
from typing import ClassVar, Literal

from vqlm.training.errors import UserError, require_range

OptimizerName = Literal["muon", "adamw"]
# What accelerate calls a tracker, and the package that it needs.
TRACKER_PACKAGES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "comet_ml": "comet_ml",
    "aim": "aim",
    "mlflow": "mlflow",
    "clearml": "clearml",
    "dvclive": "dvclive",
    "swanlab": "swanlab",
}


@dataclass(kw_only=True)
class TrainingConfig:
    """A budget is steps or minutes, whichever ends first; with neither given it is the stage's own number of steps.

    Args:
        max_steps: optimizer steps to train for; by default 1,600 for an image tokenizer and 1,400 for a language model,
            unless max_minutes is given.
        max_minutes: minutes to train for.
        batch_size: rows per process that are computed at once.
        gradient_accumulation_steps: batches per optimizer step, which learns from all of them as from one larger batch.
        find_batch_size: where memory is short, halve batch_size and double gradient_accumulation_steps, until it fits.
        learning_rate: peak of the schedule.
        warmup_ratio: share of the budget over which the learning rate rises to its peak.
        schedule: after the warm-up the learning rate falls in a straight line ("linear") or along half a cosine
            ("cosine"), or stays ("constant").
        min_learning_rate_ratio: share of its peak to which the learning rate falls.
        weight_decay: decoupled weight decay.
        beta2: AdamW's decay of the second moment.
        max_grad_norm: gradients are scaled down to this norm; inf leaves them as they are.
        weight_ema_decay: decay per step of the exponential moving average of the weights, which is then what is
            evaluated and saved; 0 has none, 0.999 is usual. Early on the average is shorter.
        mixed_precision: "bf16", "fp16", "no" for fp32, or "auto": bf16 where the device multiplies it fast, else fp16
            on a GPU that multiplies that fast, else "no".
        tf32: multiply fp32 values on a GPU of CUDA in TF32, which keeps 10 of their 23 bits: faster where
            mixed_precision is "no".
        seed: decides initial weights, order of rows, dropout and noise.
        num_workers: processes that load rows ahead; 0 loads in the training process.
        log_every: steps between log lines; below 1 the share of the budget between them. By default 50, or 0.02 of a
            budget in minutes alone.
        eval_every: the same of held-out evaluations; by default 500, or 0.25 of a budget in minutes alone.
        checkpoint_minutes: minutes between checkpoints.
        stop_after: steps of this start after which the run stops with a checkpoint, to be continued.
        log_with: trackers beside log.jsonl, separated by commas: tensorboard, wandb, trackio, comet_ml, aim, mlflow,
            clearml, dvclive, swanlab.
        sample_every: share of the budget between two rows of samples in run/samples, which take up to 2% of the time;
            0 draws none.
    """

    default_steps: ClassVar[int] = 1000

    max_steps: int | None = None
    max_minutes: float | None = None
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    find_batch_size: bool = False
    learning_rate: float = 1e-3
    warmup_ratio: float = 0.03
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    min_learning_rate_ratio: float = 0.0
    weight_decay: float = 0.0
    beta2: float = 0.99
    max_grad_norm: float = 1.0
    weight_ema_decay: float = 0.0
    mixed_precision: Literal["auto", "bf16", "fp16", "no"] = "auto"
    tf32: bool = False
    seed: int = 0
    num_workers: int = 0
    log_every: int | float | None = None
    eval_every: int | float | None = None
    checkpoint_minutes: float = 2.0
    stop_after: int | None = None
    log_with: str | None = None
    sample_every: float = 0.1

    def __post_init__(self):
        if self.max_steps is None and self.max_minutes is None:
            self.max_steps = self.default_steps
        require_range(
            self, "(0, inf)", "max_steps", "max_minutes", "batch_size", "gradient_accumulation_steps", "learning_rate",
            "log_every", "eval_every", "stop_after",
        )  # fmt: skip
        require_range(self, "(0, inf]", "max_grad_norm")  # infinity: not scaled down
        require_range(self, "[0, inf)", "weight_decay", "num_workers", "checkpoint_minutes")
        require_range(self, "[0, 1)", "warmup_ratio", "min_learning_rate_ratio", "beta2", "weight_ema_decay")
        require_range(self, "[0, 1]", "sample_every")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"`seed` must be a whole number from 0 to {2**31 - 1}, found {self.seed}.")
        require_trackers(self.log_with)
        if self.schedule == "constant" and self.min_learning_rate_ratio:
            raise UserError(
                f"`min_learning_rate_ratio` {self.min_learning_rate_ratio} has no effect with the constant `schedule`; "
                "leave it out, or take linear or cosine."
            )

    @property
    def log_interval(self) -> int | float:
        """`log_every` or its default. How many steps a budget in minutes has is not known before."""
        if self.log_every is not None:
            return self.log_every
        return 50 if self.max_steps is not None else 0.02

    @property
    def eval_interval(self) -> int | float:
        """`eval_every` or its default."""
        if self.eval_every is not None:
            return self.eval_every
        return 500 if self.max_steps is not None else 0.25


def tracker_names(names: str | None) -> list[str]:
    """ "tensorboard, wandb" -> its two names."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def require_trackers(names: str | None) -> None:
    """Raises UserError for a tracker that accelerate does not know, or whose package is not installed."""
    for name in tracker_names(names):
        if name not in TRACKER_PACKAGES:
            raise UserError(f"`log_with` must name {', '.join(TRACKER_PACKAGES)}; found {name!r}.")
        if importlib.util.find_spec(package := TRACKER_PACKAGES[name]) is None:
            raise UserError(f"`log_with` {name} needs the package {package}; install it: pip install {package}.")
