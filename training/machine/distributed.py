"""The collectives that a training needs. Without a process group there is one process, and they are the identity."""

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Which of them this process is, from 0."""
    return dist.get_rank() if num_processes() > 1 else 0


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all processes, in place, on every process."""
    if num_processes() > 1:
        dist.all_reduce(tensor)
    return tensor


def sum_numbers(*numbers: int | float, device: torch.device) -> list[float]:
    """The sum of each number over all processes, on every process, in double precision."""
    if num_processes() == 1:  # not every device has doubles
        return [float(number) for number in numbers]
    return sum_over_processes(torch.tensor(numbers, dtype=torch.float64, device=device)).tolist()


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all processes, in place, on every process."""
    return sum_over_processes(tensor).div_(num_processes()) if num_processes() > 1 else tensor


class _MeanWithGradient(torch.autograd.Function):
    """The backward is the identity: all processes hold the same mean, so their gradients for it are equal."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return mean_over_processes(tensor.clone())

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        return gradients[0]


def differentiable_mean(tensor: Tensor) -> Tensor:
    """`mean_over_processes` through which a gradient passes; a term of the loss that is no mean over rows needs it.

    Right where the gradients of all processes are averaged afterwards, as DDP does.
    """
    return _MeanWithGradient.apply(tensor) if num_processes() > 1 else tensor  # type: ignore[return-value]


def gather_rows(tensor: Tensor) -> Tensor:
    """The rows of all processes, (N, ...) -> (processes * N, ...), in rank order; N must be equal everywhere."""
    if num_processes() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(num_processes())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
