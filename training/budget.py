"""How much of a training budget is spent, and the learning rate's factor at that share."""

import math

from vqlm.training.config import TrainingConfig

# The learning rate's factor from which it rises; a step at 0 would be lost.
FIRST_FACTOR = 0.01
# 0.3 / 0.1 is a little below 3.
ROUNDING = 1e-9


def share_of_budget(config: TrainingConfig, steps: int, seconds: float) -> float:
    """The share of the budget that `steps` and `seconds` have spent, in [0, 1]: that of whichever ends first."""
    shares = [0.0]
    if config.max_steps is not None:
        shares.append(steps / config.max_steps)
    if config.max_minutes is not None:
        shares.append(seconds / 60 / config.max_minutes)
    return min(1.0, max(shares))


def schedule(share: float, config: TrainingConfig) -> float:
    """The learning rate's factor at a share of the budget: rises over the warm-up, then falls to its least or stays."""
    if share < config.warmup_ratio:
        return max(FIRST_FACTOR, share / config.warmup_ratio)
    if config.schedule == "constant":
        return 1.0
    left = (1 - share) / (1 - config.warmup_ratio)
    if config.schedule == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return config.min_learning_rate_ratio + (1 - config.min_learning_rate_ratio) * left


def ends_interval(config: TrainingConfig, every: int | float, step: int, began: float, ended: float) -> bool:
    """Whether a step ends an interval, or the budget.

    Args:
        config: has the budget.
        every: steps of an interval; below 1 its share of the budget.
        step: number of the step, from 1.
        began, ended: seconds spent before the step and after it.
    """
    share = share_of_budget(config, step, ended)
    if share >= 1:
        return True
    if every >= 1:
        return step % every == 0
    before = share_of_budget(config, step - 1, began)
    return int(share / every + ROUNDING) > int(before / every + ROUNDING)


def budget_text(config: TrainingConfig) -> str:
    """The budget of a run in words, such as "1,400 steps" or "3.5 minutes"."""
    parts = [f"{config.max_steps:,} steps"] if config.max_steps is not None else []
    parts += [f"{config.max_minutes:g} minutes"] if config.max_minutes is not None else []
    return " or ".join(parts) + (", whichever ends first" if len(parts) > 1 else "")
