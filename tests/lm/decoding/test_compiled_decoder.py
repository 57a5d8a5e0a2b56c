"""A step that torch.compile builds gives the logits of a plain one, and is built no more often than needed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vqlm.lm.decoding.llama_decoder import _compile_key
from vqlm.lm.decoding.packed_weights import can_pack

pytestmark = pytest.mark.slow

LEGAL, HERE = slice(20, 55), Path(__file__).parent


def output_of(program: str) -> str:
    """What `program` prints in a separate process: the checks of shapes that these tests install do not compile."""
    done = subprocess.run([sys.executable, HERE / program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_compiled_step_gives_the_same():
    assert output_of("compiled_decoder.py").splitlines()[-1] == "the same"


@pytest.mark.parametrize("change", ["epsilon", "activation", "precision", "layout", "size"])
def test_a_step_is_compiled_again_for_what_it_treats_as_constant(change, build):
    model = build("llama")
    before = _compile_key(model, LEGAL, None)
    assert before == _compile_key(build("llama"), LEGAL, None)
    layer = model.model.layers[0]
    if change == "epsilon":
        layer.input_layernorm.variance_epsilon = 0.5
    elif change == "activation":
        layer.mlp.act_fn = nn.GELU()
    elif change == "precision":
        model.model.norm.to(torch.bfloat16)
    elif change == "layout":
        turn(layer.mlp.down_proj.weight)
    else:
        layer.mlp.down_proj = nn.Linear(layer.mlp.down_proj.in_features - 1, layer.mlp.down_proj.out_features)
    assert before != _compile_key(model, LEGAL, None)


def turn(weight: torch.Tensor) -> None:
    """The same values, laid out column by column."""
    weight.data = weight.data.T.contiguous().T


def test_a_compiled_step_has_few_numbers_that_vary():
    """With a symbol for each number of each layer the compiler takes minutes, and its kernels are slow."""
    if not can_pack(torch.zeros(1, dtype=torch.bfloat16)):
        pytest.skip("the numbers belong to packed weights, which this CPU does not use")
    one_layer, three_layers = output_of("compiled_numbers.py").split()
    assert 0 < int(one_layer) == int(three_layers)
