"""The optimizers of a VQ-VAE: Muon for its convolutions, AdamW for all else."""

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

OptimizerName = Literal["muon", "adamw"]
MATRIX_DIMS = 2
# The quintic of Jordan et al. 2024, which pulls singular values towards 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class KernelMuon(Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) for convolution kernels.

    torch.optim.Muon takes matrices only; here a kernel (out, in, *size) is the matrix (out, in * size), and the rest
    is as there with `adjust_lr_fn="match_rms_adamw"`: the update has the size of AdamW's, so that one learning rate
    serves both.
    """

    def __init__(self, kernels: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(kernels, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(kernel)
                momentum = state["momentum_buffer"].lerp_(kernel.grad, 1 - group["momentum"])
                update = orthogonalize(kernel.grad.lerp(momentum, group["momentum"]).flatten(1))  # Nesterov's
                scale = 0.2 * max(update.shape) ** 0.5
                kernel.mul_(1 - group["lr"] * group["weight_decay"])
                kernel.add_(update.view(kernel.shape), alpha=-group["lr"] * scale)
        return loss


def orthogonalize(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """All singular values near 1, the directions kept, by Newton-Schulz steps in bf16."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    found = (matrix.T if is_tall else matrix).bfloat16()
    found = found / found.norm().clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return (found.T if is_tall else found).to(matrix.dtype)


def build_optimizers(
    name: OptimizerName, model: nn.Module, learning_rate: float, weight_decay: float, beta2: float
) -> list[Optimizer]:
    """AdamW alone, or Muon for the convolutions and AdamW for the rest, by one learning rate."""
    kernels = [weight for weight in model.parameters() if weight.ndim > MATRIX_DIMS and name == "muon"]
    moved = {id(weight) for weight in kernels}
    rest = [weight for weight in model.parameters() if id(weight) not in moved]
    adamw = AdamW(rest, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, beta2), fused=True)
    return [KernelMuon(kernels, learning_rate, weight_decay=weight_decay), adamw] if kernels else [adamw]
