"""An exponential moving average of a model's weights, which evaluates better than the weights of the last step."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of the trained weights of `model` and of its floating point buffers, such as a codebook.

    Its decay rises to `decay`, as (1 + n) / (10 + n) after n updates, so that the first weights do not linger. A
    checkpoint keeps it beside the weights.

    Args:
        model: not wrapped; its parameters are the ones that the optimizers move.
        decay: of the average, per step.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay, self.updates = model, decay, 0
        self.averages: dict[str, Tensor] = {}

    def _current(self) -> dict[str, Tensor]:
        weights = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        return weights | {name: buffer for name, buffer in self.model.named_buffers() if buffer.is_floating_point()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of the step that was just done."""
        current = self._current()
        if not self.averages:
            self.averages = {name: weight.detach().clone() for name, weight in current.items()}
        else:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(list(self.averages.values()), [current[name] for name in self.averages], 1 - decay)
        self.updates += 1

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the model has the averages and this object holds the weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        """Exchange the weights and their averages, without a copy."""
        current = self._current()
        for name, average in self.averages.items():
            current[name].data, self.averages[name] = average, current[name].data

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        current = self._current()
        self.updates = state["updates"]
        self.averages = {name: average.to(current[name].device) for name, average in state["averages"].items()}
