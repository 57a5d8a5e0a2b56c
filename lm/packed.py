"""The matrices of a layer in the layout that oneDNN multiplies fastest, for a CPU with bf16 instructions.

Products of few rows with bf16 weights take half the time with weights that are laid out beforehand, as torch.compile
does when it freezes a model; the operators are those that it uses. Query, key and value are one product then, gate and
up another. The copy takes the weights' memory once more for as long as a batch is drawn.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.machine import is_bf16_fast


class PackedLinear(NamedTuple):
    """Several linear maps of one input. weight: opaque; sizes: outputs of each."""

    weight: Tensor
    bias: Tensor | None
    sizes: list[int]

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        made = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return made.split(self.sizes, -1)


class PackedLayer(NamedTuple):
    qkv: PackedLinear
    out: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear


def pack_layers(layers: Iterable[Any], rows: int) -> list[PackedLayer]:
    """The decoder layers of a llama-like model for inputs of `rows` rows; as their weights are now."""
    return [
        PackedLayer(
            _pack(rows, layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
            _pack(rows, layer.self_attn.o_proj),
            _pack(rows, layer.mlp.gate_proj, layer.mlp.up_proj),
            _pack(rows, layer.mlp.down_proj),
        )
        for layer in layers
    ]


def can_pack(weight: Tensor) -> bool:
    """Whether a weight of this device and precision can be packed and gains by it."""
    is_there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return is_there and weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and is_bf16_fast(weight.device)


def _pack(rows: int, *linears: nn.Linear) -> PackedLinear:
    weight = torch.cat([linear.weight for linear in linears])
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return PackedLinear(packed, torch.cat(biases) if biases else None, [linear.out_features for linear in linears])
