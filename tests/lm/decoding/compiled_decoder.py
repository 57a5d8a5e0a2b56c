"""A compiled step gives the logits of a plain one. Run by test_compiled_decoder.py in a separate process."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vqlm.lm.decoding.llama_decoder import LlamaDecoder
from vqlm.lm.decoding.packed_weights import can_pack

torch.manual_seed(0)
CONFIG = LlamaConfig(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.3,
)
model = LlamaForCausalLM(CONFIG).eval()
LEGAL = slice(20, 55)


def compare(shapes, check, quantize=None, recompiles=True):
    if recompiles:
        torch.compiler.reset()
    torch.compiler.set_stance("default" if recompiles else "fail_on_recompile")
    compiled = LlamaDecoder(model, LEGAL, compile=True, quantize=quantize)
    plain = LlamaDecoder(model, LEGAL, quantize=quantize)
    for rows, is_padded in shapes:
        mask = torch.arange(5) >= 2 * is_padded * torch.arange(rows).unsqueeze(1)
        ids = torch.randint(3, 60, (rows, 5)) * mask
        check(compiled.read(ids, mask, 6), plain.read(ids, mask, 6))
        for column in torch.randint(3, 60, (6, rows)):
            check(compiled.step(column), plain.step(column))


def equal(logits, expected):
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)


def near(logits, expected):  # the cache is bf16 in the one and fp32 in the other
    assert (logits - expected).std() < 0.05 * expected.std(), ((logits - expected).std(), expected.std())


compare([(3, True), (3, False), (1, False)], equal)
model = LlamaForCausalLM(CONFIG).eval()  # an equal one needs no compiling
compare([(4, True)], equal, recompiles=False)
torch.compiler.set_stance("default")
model.config.rms_norm_eps = 0.5  # one that differs in a single number needs it
compiled, plain = LlamaDecoder(model, LEGAL, compile=True), LlamaDecoder(model, LEGAL)
ids, mask = torch.randint(3, 60, (2, 5)), torch.ones(2, 5, dtype=torch.bool)
equal(compiled.read(ids, mask, 6), plain.read(ids, mask, 6))
equal(compiled.step(ids[:, 0]), plain.step(ids[:, 0]))
if can_pack(torch.zeros(1, dtype=torch.bfloat16)):
    model.to(torch.bfloat16)
    model.model.layers = model.model.layers[:1]  # compiles in half the time; every layer is compiled alike
    model.config.num_hidden_layers = 1
    compare([(3, True)], near)
    model.model.layers[0].mlp.down_proj.weight.data.mul_(3)  # no stale weights
    compare([(4, True)], near, recompiles=False)
    compare([(3, True)], near, "int8")
print("the same")
