"""The gradients of one model: summed over batches and processes, scaled in fp16, clipped."""

from collections.abc import Sequence

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vqlm.training.machine.distributed import num_processes, sum_over_processes


class Gradients:
    """From the losses of a step's batches to one clipped gradient.

    Args:
        batches_per_step: of each process.
        scaler: of fp16, for this model alone: its scale must not change between the batches of one step.
    """

    def __init__(self, batches_per_step: int, scaler: GradScaler | None):
        self.batches_per_step, self.scaler = batches_per_step, scaler
        self._total_weight: Tensor | None = None
        self.skipped_in_a_row = 0

    def add(self, loss: Tensor, weight: Tensor | None) -> None:
        """Backward. `loss` is a mean; `weight` is what it is a mean over, where batches differ in that."""
        if weight is not None and self.batches_per_step * num_processes() > 1:
            weight = weight.detach().float()
            loss = loss * weight
            self._total_weight = weight if self._total_weight is None else self._total_weight + weight
        elif self.batches_per_step > 1:
            loss = loss / self.batches_per_step
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def finish(self, model: nn.Module, optimizers: Sequence[Optimizer], max_norm: float) -> Tensor:
        """The gradient of all batches and processes together, scaled down to `max_norm`. Returns its norm before."""
        if self.scaler is not None:
            for optimizer in optimizers:
                self.scaler.unscale_(_plain(optimizer))
        if self._total_weight is not None:  # each process has its mean of weight * gradient
            factor = num_processes() / sum_over_processes(self._total_weight).clamp(min=1e-9)
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
            self._total_weight = None
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def update_scale(self) -> None:
        """After a step, taken or skipped: a lower scale after an overflow, a higher one after many good steps."""
        if self.scaler is not None:
            self.scaler.update()

    @property
    def can_lower_scale(self) -> bool:
        """Whether a gradient that is not finite may be an overflow that a lower scale prevents."""
        return self.scaler is not None and self.scaler.get_scale() > 1


def _plain(optimizer: Optimizer) -> Optimizer:
    while isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    return optimizer
