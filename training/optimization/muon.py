"""The optimizer Muon for matrices and convolution kernels; all of one shape are updated together."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

# Three polynomials a x + b x^3 + c x^5, applied in turn, bring singular values between 0.01 and 1.02 of the norm to
# within 0.29 of 1. Each is the one nearest to 1 on the output range of the one before, widened by 2% for rounding, as
# in the Polar Express (Amsel et al. 2025, arXiv 2505.16932). Jordan's single polynomial needs five applications.
NEWTON_SCHULZ = ((7.9424, -22.2873, 15.8239), (3.5875, -2.5845, 0.4893), (2.6604, -1.9134, 0.4194))
MOST_AT_ONCE = 2**23


class Muon(Optimizer):
    """Moves a matrix by its orthogonalised momentum (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

    The update is scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves
    both. It is `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` and fewer Newton-Schulz steps, which takes
    matrices only and one after another: here a kernel (out, in, *size) is a matrix of `out` rows, and all of one shape
    are orthogonalised in the same products: a GPU would idle between many small ones. Of a sharded matrix (FSDP2) each
    process gathers the momentum and moves its own rows.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            gradients_of = {weight: weight.grad for weight in group["params"] if weight.grad is not None}
            for weight in gradients_of:
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            for weights in _alike(gradients_of):
                matrices = [_as_matrix(_local(weight), weight) for weight in weights]
                gradients = [_as_matrix(_local(gradients_of[weight]), weight) for weight in weights]
                momenta = [_as_matrix(_local(self.state[weight]["momentum_buffer"]), weight) for weight in weights]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's
                updates = [_whole(update, weight) for update, weight in zip(updates, weights, strict=True)]
                directions = orthogonalize(torch.stack(updates))
                scale = 0.2 * max(directions.shape[1:]) ** 0.5
                moves = [_part(direction, weight) for direction, weight in zip(directions, weights, strict=True)]
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, moves, alpha=-group["lr"] * scale)
        return loss


def _alike(weights: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Weights of one shape, as many as make up to `MOST_AT_ONCE` numbers: each is copied meanwhile."""
    by_shape = defaultdict(list)
    for weight in weights:
        by_shape[len(weight), weight.shape[1:].numel(), weight.dtype, weight.device].append(weight)
    for (rows, columns, _, _), alike in by_shape.items():
        count = max(1, MOST_AT_ONCE // (rows * columns))
        yield from (alike[start : start + count] for start in range(0, len(alike), count))


def _as_matrix(tensor: Tensor, weight: Tensor) -> Tensor:
    """(out, in, *size) as (out, in * size), the columns in the order in which `weight` has them in memory.

    A view of `weight`: moving it moves the weight. Which column is which does not matter to the singular values.
    """
    columns = sorted(range(1, weight.ndim), key=weight.stride, reverse=True)
    return tensor.permute(0, *columns).flatten(1)


def _local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this process holds; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(part: Tensor, weight: Tensor) -> Tensor:
    """The matrix of which every process gives the part that it holds of `weight`."""
    if not isinstance(weight, DTensor):
        return part
    sizes = {"shape": weight.shape, "stride": weight.stride()}  # the parts of the processes may differ in their rows
    return DTensor.from_local(part, weight.device_mesh, weight.placements, run_check=False, **sizes).full_tensor()


def _part(matrix: Tensor, weight: Tensor) -> Tensor:
    """The part of a whole matrix that this process holds of `weight`."""
    if not isinstance(weight, DTensor):
        return matrix
    whole = DTensor.from_local(matrix, weight.device_mesh, [Replicate()], run_check=False)
    return whole.redistribute(placements=weight.placements).to_local()


def orthogonalize(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """All singular values near 1 that are not below 0.01 of the norm, the directions kept, by products in bf16."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    norms = matrices.flatten(1).norm(dim=1).clamp(min=1e-7)
    result = matrices.bfloat16() / norms.bfloat16()[:, None, None]
    for a, b, c in NEWTON_SCHULZ:
        gram = result.mT @ result if is_tall else result @ result.mT
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        result = torch.baddbmm(result, *((result, factor) if is_tall else (factor, result)), beta=a)
    return result.to(matrices.dtype)
