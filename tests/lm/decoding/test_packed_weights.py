"""Weights laid out for a CPU's instructions multiply as they are."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from vqlm.lm.decoding.packed_weights import can_pack, packed_maps, require_int8, using
from vqlm.training.errors import UserError

ROWS, LEGAL = 3, slice(20, 55)
CONFIG = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
INPUTS = {
    "rows": lambda: torch.randn(3, 32),
    "one id of one row": lambda: torch.randn(1, 1, 32),
    "an id a row": lambda: torch.randn(3, 1, 32),
    "five ids per row": lambda: torch.randn(3, 5, 32),
    "the last id a row": lambda: torch.randn(3, 5, 32)[:, -1:],
    "turned": lambda: torch.randn(5, 3, 32).transpose(0, 1),
}


@pytest.fixture(params=["bf16", "int8"])
def quantize(request) -> str | None:
    if request.param == "bf16":
        if not can_pack(torch.zeros(1, dtype=torch.bfloat16)):
            pytest.skip("this CPU multiplies no bf16")
        return None
    try:
        require_int8(torch.device("cpu"))
    except UserError as error:
        pytest.skip(str(error))
    return "int8"


def build(**changed) -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(**CONFIG | changed)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return model.to(torch.bfloat16)


@torch.no_grad()
@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("has_bias", [True, False])
def test_packed_maps_equal_linear_ones(quantize, given, has_bias):
    model, x = build(attention_bias=has_bias), INPUTS[given]().to(torch.bfloat16)
    maps, weights = packed_maps(model, LEGAL, ROWS, quantize)
    with using(weights):
        parts = maps.layers[0].qkv(x)
    attention = model.model.layers[0].self_attn
    for product, linear in zip(parts, (attention.q_proj, attention.k_proj, attention.v_proj), strict=True):
        expected = linear.float()(x.float())
        assert product.shape == expected.shape
        assert (product - expected).std() < (0.02 if quantize else 0.005) * expected.std()


@torch.no_grad()
def test_a_weight_is_packed_whatever_its_layout(quantize):
    """oneDNN's packing takes the values in the order in which they lie."""
    model = build()
    x, y = torch.randn(ROWS, 48).to(torch.bfloat16), torch.randn(ROWS, 32).to(torch.bfloat16)

    def products() -> list[torch.Tensor]:
        maps, weights = packed_maps(model, LEGAL, ROWS, quantize)
        with using(weights):
            return [maps.layers[0].down(x)[0], maps.layers[0].out(y)[0], maps.head(y)[0]]

    expected = products()
    layer = model.model.layers[0]
    for linear in (layer.mlp.down_proj, layer.self_attn.o_proj, model.lm_head):
        linear.weight.data = linear.weight.data.T.contiguous().T
    assert not layer.mlp.down_proj.weight.is_contiguous()
    for product, straight in zip(products(), expected, strict=True):
        assert torch.equal(product, straight)
