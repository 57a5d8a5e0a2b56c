"""A step as a CUDA graph gives the logits of the stock forward."""

import pytest
import torch

from vqlm.lm.decoding.decoders import StockDecoder, build_decoder
from vqlm.lm.decoding.llama_decoder import LlamaDecoder
from vqlm.lm.settings import DecodingOptions

pytestmark = pytest.mark.cuda
VOCABULARY, LEGAL, STEPS = 60, slice(20, 55), 6


def test_a_cuda_graph_equals_the_stock_forward(llama_like, padded_prompts, logits_of):
    llama_like, (ids, mask) = llama_like.to("cuda"), (tensor.cuda() for tensor in padded_prompts)
    following = torch.randint(3, VOCABULARY, (3, STEPS), device="cuda")
    for rows in (3, 1):  # each batch has its graph
        ours = build_decoder(llama_like, LEGAL, DecodingOptions(compile=rows == 1))
        logits = logits_of(ours, ids[:rows], mask[:rows], following[:rows])
        assert ours.graph is not None
        expected = logits_of(StockDecoder(llama_like, LEGAL), ids[:rows], mask[:rows], following[:rows])
        torch.testing.assert_close(logits, expected, atol=2e-4, rtol=2e-4)


def test_guesses_and_steps_of_a_cuda_graph_share_a_cache(llama_like, padded_prompts, logits_of):
    llama_like, (ids, mask) = llama_like.to("cuda"), (tensor.cuda() for tensor in padded_prompts)
    following = torch.randint(3, VOCABULARY, (3, STEPS), device="cuda")
    one_by_one, ours = (build_decoder(llama_like, LEGAL) for _ in range(2))
    expected = logits_of(one_by_one, ids, mask, following)
    logits = [ours.read(ids, mask, STEPS), ours.step(following[:, 0])]
    guessed = ours.guess(following[:, 1:4])
    ours.keep(3)
    logits += [*guessed.unbind(1), ours.step(following[:, 4])]
    torch.testing.assert_close(torch.stack(logits), expected[:6], atol=2e-4, rtol=2e-4)


def test_a_cuda_graph_of_bf16_weights_is_nearer_to_fp32_than_the_stock_forward(padded_prompts, build, logits_of):
    (ids, mask), model = (tensor.cuda() for tensor in padded_prompts), build("llama").to("cuda", torch.bfloat16)
    following = torch.randint(3, VOCABULARY, (3, STEPS), device="cuda")
    ours, stock = (logits_of(kind(model, LEGAL), ids, mask, following) for kind in (LlamaDecoder, StockDecoder))
    exact = logits_of(StockDecoder(model.float(), LEGAL), ids, mask, following)
    assert (ours - exact).square().mean() < (stock - exact).square().mean()
