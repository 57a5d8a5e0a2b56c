"""The optimizers of a language model: Muon for its hidden matrices, AdamW for all other weights."""

from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from vqlm.training.config import OptimizerName
from vqlm.training.optimization.optimizers import muon_and_adamw

MATRIX_DIMS = 2


def build_optimizers(
    name: OptimizerName, model: PreTrainedModel, learning_rate: float, weight_decay: float, beta2: float
) -> list[Optimizer]:
    """AdamW alone, or Muon for the matrices between hidden states and AdamW for the rest, with one learning rate.

    Embeddings, the output head and vectors do not map hidden states to hidden states, so AdamW trains them. Frozen
    parameters are left out, and so is an optimizer without parameters.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    matrices = _hidden_matrices(model, trained) if name == "muon" else []
    by_muon = {id(weight) for weight in matrices}
    rest = [weight for weight in trained if id(weight) not in by_muon]
    groups = _groups(rest, weight_decay) if rest else []
    return muon_and_adamw(matrices, groups, learning_rate, weight_decay, beta2)


def _hidden_matrices(model: PreTrainedModel, trained: list[nn.Parameter]) -> list[nn.Parameter]:
    ends = [module for module in model.modules() if isinstance(module, nn.Embedding)] + [model.get_output_embeddings()]
    at_ends = {id(weight) for module in ends if module is not None for weight in module.parameters()}
    return [weight for weight in trained if weight.ndim == MATRIX_DIMS and id(weight) not in at_ends]


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups without weight decay on vectors: biases and norms."""
    return [
        {"params": [p for p in parameters if p.ndim >= MATRIX_DIMS], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < MATRIX_DIMS], "weight_decay": 0.0},
    ]
