"""Muon beside AdamW, by one learning rate. Which weight goes to which, each stage decides."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from vqlm.training.optimization.muon import Muon


def muon_and_adamw(
    matrices: Sequence[nn.Parameter],
    others: Sequence[dict[str, Any]],
    learning_rate: float,
    weight_decay: float,
    beta2: float,
) -> list[Optimizer]:
    """Muon for `matrices` and fused AdamW for the parameter groups `others`; one without parameters is left out."""
    optimizers: list[Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, learning_rate, weight_decay=weight_decay))
    if others:
        adamw = AdamW(list(others), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, beta2), fused=True)
        optimizers.append(adamw)
    return optimizers
