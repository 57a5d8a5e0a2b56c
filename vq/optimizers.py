"""The optimizers of a VQ-VAE: Muon for its convolutions, AdamW for all other weights."""

from torch import nn
from torch.optim import Optimizer

from vqlm.training.config import OptimizerName
from vqlm.training.optimization.optimizers import muon_and_adamw

MATRIX_DIMS = 2


def build_optimizers(
    name: OptimizerName, model: nn.Module, learning_rate: float, weight_decay: float, beta2: float
) -> list[Optimizer]:
    """AdamW alone, or Muon for the convolutions and AdamW for the rest, with one learning rate."""
    kernels = [weight for weight in model.parameters() if weight.ndim > MATRIX_DIMS and name == "muon"]
    by_muon = {id(weight) for weight in kernels}
    rest = [weight for weight in model.parameters() if id(weight) not in by_muon]
    return muon_and_adamw(kernels, [{"params": rest}], learning_rate, weight_decay, beta2)
