"""The optimizers of a language model: Muon for its hidden matrices, AdamW for all else."""

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel
from vqlm.lm.settings import OptimizerName
from vqlm.training.muon import Muon

MATRIX_DIMS = 2


def build_optimizers(
    name: OptimizerName, model: PreTrainedModel, learning_rate: float, weight_decay: float, beta2: float
) -> list[Optimizer]:
    """AdamW alone, or Muon for the matrices between hidden states and AdamW for the rest, by one learning rate.

    Embeddings, the output head and vectors are no maps between hidden states and stay with AdamW. Frozen parameters are
    left out, and an optimizer that would have none.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if name == "adamw":
        return [_adamw(trained, learning_rate, weight_decay, beta2)]
    ends = [module for module in model.modules() if isinstance(module, nn.Embedding)] + [model.get_output_embeddings()]
    kept = {id(weight) for module in ends if module is not None for weight in module.parameters()}
    kept |= {id(weight) for weight in trained if weight.ndim != MATRIX_DIMS}
    matrices = [weight for weight in trained if id(weight) not in kept]
    rest = [weight for weight in trained if id(weight) in kept]
    muon = Muon(matrices, learning_rate, weight_decay=weight_decay)
    return [muon, _adamw(rest, learning_rate, weight_decay, beta2)] if rest else [muon]


def _adamw(parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float, beta2: float) -> Optimizer:
    """AdamW without decay on vectors: biases and norms."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= MATRIX_DIMS], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < MATRIX_DIMS], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=learning_rate, betas=(0.9, beta2), fused=True)
