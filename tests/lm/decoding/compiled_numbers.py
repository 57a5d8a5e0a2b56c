"""Prints how many numbers a compiled step takes with one layer and with three. Run by test_compiled_decoder.py."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vqlm.lm.decoding.llama_decoder import LlamaDecoder, run_step

counts = []


def count(graph, inputs):
    counts.append(sum(isinstance(value, int | torch.SymInt) for value in inputs))
    return graph


for layers in (1, 3):
    torch.compiler.reset()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
        )
    ).to(torch.bfloat16)
    decoder = LlamaDecoder(model, slice(20, 55), compile=True)
    decoder.next_logits = torch.compile(run_step, dynamic=True, backend=count)
    decoder.read(torch.full((3, 5), 7), torch.ones(3, 5, dtype=torch.bool), 2)
    decoder.step(torch.full((3,), 30))
print(*counts)
