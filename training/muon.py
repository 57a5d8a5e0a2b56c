"""The optimizer Muon for matrices and convolution kernels, those of one shape together."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

# The quintic of Jordan et al. 2024, which pulls singular values towards 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MOST_AT_ONCE = 2**23


class Muon(Optimizer):
    """Moves a matrix by its orthogonalised momentum (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

    The update is scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate serves
    both. It is `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, which takes matrices only and one after
    another: here a kernel (out, in, *size) is the matrix (out, in * size), and all of one shape are orthogonalised in
    the same products. A GPU would wait for the many small ones to be started.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients = [weight.grad for weight in weights]
            for weight in weights:
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            for places in _alike(weights):
                own_gradients, own_momenta = ([those[place] for place in places] for those in (gradients, momenta))
                updates = torch._foreach_lerp(own_gradients, own_momenta, group["momentum"])  # Nesterov's
                made = orthogonalize(torch.stack([update.flatten(1) for update in updates]))
                scale = 0.2 * max(made.shape[1:]) ** 0.5
                moved = [weights[place] for place in places]
                changes = [change.reshape(weight.shape) for change, weight in zip(made, moved, strict=True)]
                torch._foreach_add_(moved, changes, alpha=-group["lr"] * scale)
        return loss


def _alike(weights: list[nn.Parameter]) -> Iterator[list[int]]:
    """The places of weights of one shape, as many as make up to `MOST_AT_ONCE` numbers: each is copied meanwhile."""
    by_shape = defaultdict(list)
    for place, weight in enumerate(weights):
        by_shape[weight.shape, weight.dtype, weight.device].append(place)
    for (shape, _, _), places in by_shape.items():
        count = max(1, MOST_AT_ONCE // shape.numel())
        yield from (places[start : start + count] for start in range(0, len(places), count))


def orthogonalize(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """All singular values near 1, the directions kept, by Newton-Schulz steps in bf16."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[1] > matrices.shape[2]
    found = (matrices.mT if is_tall else matrices).bfloat16()
    found = found / found.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return (found.mT if is_tall else found).to(matrices.dtype)
