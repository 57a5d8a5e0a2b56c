"""Attention of short packs on a CPU, which transformers calls by its name."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

IN_HALVES = "vqlm_in_halves"


def attend_in_halves(
    module: nn.Module,
    query: Float[Tensor, "b h t d"],
    key: Float[Tensor, "b g t d"],
    value: Float[Tensor, "b g t d"],
    attention_mask: Float[Tensor, "b 1 t t"],
    scaling: float,
    dropout: float = 0.0,
    **_,
) -> tuple[Float[Tensor, "b t h d"], None]:
    """Explicit causal attention, without the keys that no query of the first half may see: three quarters of the work.

    For plain attention, what else a model may ask for (a soft cap, sinks) is not in it.
    """
    groups, middle = query.shape[1] // key.shape[1], (query.shape[2] + 1) // 2
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    mixed = []
    for start, end in ((0, middle), (middle, query.shape[2])):
        scores = (
            query[:, :, start:end] @ key[:, :, :end].transpose(2, 3) * scaling + attention_mask[:, :, start:end, :end]
        )
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        mixed.append(F.dropout(weights, dropout, module.training) @ value[:, :, :end])
    return torch.cat(mixed, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(IN_HALVES, attend_in_halves)
AttentionMaskInterface.register(IN_HALVES, eager_mask)
