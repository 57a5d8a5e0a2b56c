"""The matrices of a llama-like model: as they are, or prepacked for the instructions of a CPU, in bf16 or in int8.

Products of few rows with bf16 weights take less time with weights that oneDNN has packed beforehand; in int8 a large
model reads half as many bytes for them. Query, key and value are then one product, gate and up another. The copy
takes the memory of the bf16 or int8 weights once more while a batch is drawn. The operators are those that
torch.compile lowers frozen and quantized models to.

In int8 each output channel of a matrix has a scale, and so has each row that is multiplied with it, so that a row does
not depend on the rows beside it (dynamic quantization; outliers are not kept apart: Dettmers et al. 2022, arXiv
2208.07339, need that for models a hundred times as large).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from transformers import PreTrainedModel

from vqlm.training.errors import UserError
from vqlm.training.machine.device import is_bf16_fast

ZERO = 128  # the uint8 that represents 0 for oneDNN


Matrix = tuple[Tensor, Tensor | None]  # weight (outputs, D) and bias
# Several linear maps of one input, (..., D) -> a tensor for each.
Maps = Callable[[Tensor], Sequence[Tensor]]


# Modules, because torch.compile treats the numbers and shapes that a module holds as constants.


class PlainMaps(nn.Module):
    """Weights and biases as the model has them."""

    def __init__(self, matrices: list[Matrix]):
        super().__init__()
        self.matrices = matrices

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        return [nn.functional.linear(x, weight, bias) for weight, bias in self.matrices]


class PackedMaps(nn.Module):
    """One product. place: index of its weights among those in use, see `using`; sizes: outputs of each map; bias:
    (outputs,), of an int8 product only, added after the scale.
    """

    def __init__(self, place: int, sizes: list[int], is_int8: bool, bias: Tensor | None):
        super().__init__()
        self.place, self.sizes, self.is_int8, self.bias = place, sizes, is_int8, bias

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        multiply = torch.ops.vqlm.packed_linear if torch.compiler.is_compiling() else packed_linear
        leading, outputs = x.shape[:-1], sum(self.sizes)
        x = x.flatten(0, -2)  # (N, D), or each product flattens by itself, which takes longer
        if not self.is_int8:
            return multiply(x, self.place, outputs).view(*leading, outputs).split(self.sizes, -1)
        scale = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-9) / 127  # (N, 1)
        rounded = ((x / scale).round() + ZERO).to(torch.uint8)
        product = scale * multiply(rounded, self.place, outputs)
        return (product if self.bias is None else product + self.bias).view(*leading, outputs).split(self.sizes, -1)


@dataclass(frozen=True)
class LayerMaps:
    qkv: Maps
    out: Maps
    gate_up: Maps
    down: Maps


@dataclass(frozen=True)
class ModelMaps:
    layers: list[LayerMaps]
    head: Maps


class PackedWeight(NamedTuple):
    """weight: opaque. bias: of a bf16 weight only; that of an int8 weight is in `PackedMaps`. scale, zeros: (outputs,),
    of an int8 weight only; the zeros represent 0 in it."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None = None
    zeros: Tensor | None = None


def plain_maps(model: PreTrainedModel, legal: slice) -> ModelMaps:
    """The weights themselves, the head's for the `legal` ids."""
    return _build_maps(model, legal, PlainMaps)


def packed_maps(
    model: PreTrainedModel, legal: slice, rows: int, quantize: str | None = None
) -> tuple[ModelMaps, list[PackedWeight]]:
    """Maps for inputs of `rows` rows, of the weights as they are now; and the packed weights, which are passed to
    `using` around every product."""
    weights: list[PackedWeight] = []

    def pack(matrices: list[Matrix]) -> PackedMaps:
        # Packing ignores strides: the weight must be contiguous, as the output of torch.cat is.
        weight = matrices[0][0].contiguous() if len(matrices) == 1 else torch.cat([weight for weight, _ in matrices])
        biases = [bias for _, bias in matrices if bias is not None]
        bias = torch.cat(biases) if biases else None
        sizes = [len(weight) for weight, _ in matrices]
        if quantize is None:
            weights.append(PackedWeight(torch.ops.mkldnn._reorder_linear_weight(weight, rows), bias))
            return PackedMaps(len(weights) - 1, sizes, False, None)
        rounded, scale = quantize_rows(weight)
        packed = torch.ops.onednn.qlinear_prepack(rounded, [rows, weight.shape[1]])
        weights.append(PackedWeight(packed, None, scale, torch.zeros(len(scale), dtype=torch.int32)))
        return PackedMaps(len(weights) - 1, sizes, True, None if bias is None else bias.float())

    return _build_maps(model, legal, pack), weights


def quantize_rows(weight: Float[Tensor, "n d"]) -> tuple[Int8[Tensor, "n d"], Float[Tensor, " n"]]:
    """The nearest multiples of a scale for each row, which has its largest value at 127."""
    weight = weight.float()
    scale = weight.abs().amax(1).clamp(min=1e-9) / 127
    return weight.div(scale.unsqueeze(1)).round_().to(torch.int8), scale


def can_pack(weight: Tensor) -> bool:
    """Whether a weight of this device and precision can be packed and products gain by it."""
    has_operator = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return (
        has_operator and weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and is_bf16_fast(weight.device)
    )


def require_int8(device: torch.device) -> None:
    """Raises UserError where int8 weights cannot be multiplied here."""
    if device.type != "cpu":
        raise UserError(
            f"`quantize` 'int8' draws on a CPU only, found {device}; leave it out, or move the model to the CPU."
        )
    has_operators = torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")
    if not has_operators or not torch.cpu._is_vnni_supported():
        raise UserError("`quantize` 'int8' needs a CPU with VNNI instructions and a torch with oneDNN; leave it out.")


# torch.compile cannot take a packed weight as an input, since it would need to know its layout. A compiled step names
# the weight by its index among the weights in use.

_IN_USE = threading.local()


@contextmanager
def using(weights: list[PackedWeight]) -> Iterator[None]:
    """The products of this thread use `weights` inside the context; after it, nothing here refers to them."""
    _IN_USE.weights = weights
    try:
        yield
    finally:
        del _IN_USE.weights


def packed_linear(x: Tensor, place: int, outputs: int) -> Tensor:
    """(..., D) -> (..., outputs): bf16 -> bf16; uint8 -> fp32, still to be multiplied with the scale of each row."""
    weight, bias, scale, zeros = _IN_USE.weights[place]
    if scale is None:
        return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return torch.ops.onednn.qlinear_pointwise.default(
        x, 1.0, ZERO, weight, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


torch.library.define("vqlm::packed_linear", "(Tensor x, int place, int outputs) -> Tensor")
torch.library.impl("vqlm::packed_linear", "CPU")(packed_linear)


@torch.library.register_fake("vqlm::packed_linear")
def _shape_of_packed_linear(x: Tensor, place: int, outputs: int) -> Tensor:
    dtype = torch.float32 if x.dtype == torch.uint8 else x.dtype
    return x.new_empty(*x.shape[:-1], outputs, dtype=dtype)


def _build_maps(model: PreTrainedModel, legal: slice, make: Callable[[list[Matrix]], Maps]) -> ModelMaps:
    def of(*linears: nn.Linear) -> Maps:
        return make([(linear.weight, linear.bias) for linear in linears])

    layers = []
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        layers.append(
            LayerMaps(
                of(attention.q_proj, attention.k_proj, attention.v_proj),
                of(attention.o_proj),
                of(mlp.gate_proj, mlp.up_proj),
                of(mlp.down_proj),
            )
        )
    head = model.lm_head
    return ModelMaps(layers, make([(head.weight[legal], None if head.bias is None else head.bias[legal])]))
