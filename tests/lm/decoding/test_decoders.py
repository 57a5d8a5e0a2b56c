"""The decoder that runs a model's layers itself gives what the model's forward gives."""

import warnings

import pytest
import torch
from torch import nn
from transformers import LogitsProcessor

from vqlm.lm.decoding.decoders import StockDecoder, build_decoder
from vqlm.lm.decoding.llama_decoder import (
    LlamaDecoder,
    attend,
    attend_by_sums,
    is_llama_like,
    run_step,
    step_anywhere,
)
from vqlm.lm.decoding.packed_weights import can_pack

VOCABULARY, LEGAL, STEPS = 60, slice(20, 55), 6


def test_every_step_equals_the_stock_forward(llama_like, padded_prompts, logits_of):
    following = torch.randint(3, VOCABULARY, (3, STEPS))
    ours = build_decoder(llama_like, LEGAL)
    assert isinstance(ours, LlamaDecoder)
    logits = logits_of(ours, *padded_prompts, following)
    expected = logits_of(StockDecoder(llama_like, LEGAL), *padded_prompts, following)
    assert logits.shape == (STEPS + 1, 3, 35)
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)
    assert logits.std() > 0.1


class _StepAnywhere(LlamaDecoder):
    """A step as a CUDA graph captures it, without the graph."""

    @torch.no_grad()
    def step(self, ids):
        logits = step_anywhere(self, ids.unsqueeze(1), self.next_position, torch.tensor([self.place]))
        self.keep(1)
        return logits[:, 0]


def test_a_step_over_the_whole_cache_equals_one_over_what_is_filled(llama_like, padded_prompts, logits_of):
    following = torch.randint(3, VOCABULARY, (3, STEPS))
    logits, expected = (
        logits_of(kind(llama_like, LEGAL), *padded_prompts, following) for kind in (_StepAnywhere, LlamaDecoder)
    )
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)


def test_a_row_equals_itself_alone(llama_like, padded_prompts, logits_of):
    following = torch.randint(3, VOCABULARY, (3, STEPS))
    together = logits_of(LlamaDecoder(llama_like, LEGAL), *padded_prompts, following)
    for row, (ids, mask) in enumerate(zip(*padded_prompts, strict=True)):
        alone = logits_of(LlamaDecoder(llama_like, LEGAL), ids[mask][None], mask[mask][None], following[row : row + 1])
        torch.testing.assert_close(together[:, row], alone[:, 0], atol=2e-5, rtol=1e-5)


class OnlyLegal(LogitsProcessor):
    def __call__(self, _ids, scores):
        kept = torch.full_like(scores, -torch.inf)
        kept[:, LEGAL] = scores[:, LEGAL]
        return kept


def test_greedy_ids_equal_those_of_generate(llama_like, padded_prompts):
    ids, mask = padded_prompts
    expected = llama_like.generate(
        input_ids=ids, attention_mask=mask.long(), max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False,
        logits_processor=[OnlyLegal()],
    )[:, 5:]  # fmt: skip
    decoder = build_decoder(llama_like, LEGAL)
    drawn = [decoder.read(ids, mask, STEPS - 1).argmax(-1) + LEGAL.start]
    for _ in range(STEPS - 1):
        drawn.append(decoder.step(drawn[-1]).argmax(-1) + LEGAL.start)
    assert torch.equal(torch.stack(drawn, 1), expected)


@pytest.mark.parametrize("kind", ["llama", "biases", "qwen3"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_bf16_weights_are_nearer_to_fp32_than_the_stock_forward(
    kind, is_packed, padded_prompts, monkeypatch, build, logits_of
):
    """The residual stream stays fp32 here, which the stock forward rounds to bf16 after every block."""
    if is_packed and not can_pack(torch.zeros(1, dtype=torch.bfloat16)):
        pytest.skip("this CPU multiplies no bf16")
    monkeypatch.setattr("vqlm.lm.decoding.llama_decoder.can_pack", lambda _weight: is_packed)
    model, following = build(kind), torch.randint(3, VOCABULARY, (3, STEPS))
    rounded = model.to(torch.bfloat16)
    ours = logits_of(LlamaDecoder(rounded, LEGAL), *padded_prompts, following)
    stock = logits_of(StockDecoder(rounded, LEGAL), *padded_prompts, following)
    exact = logits_of(StockDecoder(rounded.float(), LEGAL), *padded_prompts, following)
    spread = exact.std()
    assert (ours - exact).abs().max() < 0.1 * spread
    assert (ours - exact).square().mean() < (stock - exact).square().mean()


def test_rows_that_are_alike_are_read_once(llama_like, padded_prompts, monkeypatch):
    ids, mask = (tensor[[0, 1, 0, 2, 1]] for tensor in padded_prompts)
    alone = [LlamaDecoder(llama_like, LEGAL) for _ in ids]
    together, read = LlamaDecoder(llama_like, LEGAL), []
    expected = [one.read(row_ids[None], seen[None], 2) for one, row_ids, seen in zip(alone, ids, mask, strict=True)]
    monkeypatch.setattr(
        "vqlm.lm.decoding.llama_decoder.run_step", lambda *given: read.append(given[2]) or run_step(*given)
    )
    torch.testing.assert_close(together.read(ids, mask, 2), torch.cat(expected), atol=2e-5, rtol=1e-5)
    assert len(read) == 1
    assert len(read[0]) == 3
    ids = torch.randint(3, VOCABULARY, (5,))
    expected = torch.cat([one.step(row_ids[None]) for one, row_ids in zip(alone, ids, strict=True)])
    torch.testing.assert_close(together.step(ids), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_both_attentions_are_one(groups):
    query, keys, values = torch.randn(3, 4, 1, 8), torch.randn(3, groups, 7, 8), torch.randn(3, groups, 7, 8)
    mask = torch.zeros(3, 1, 1, 7).masked_fill(torch.arange(7) < torch.tensor([0, 2, 5]).view(3, 1, 1, 1), -torch.inf)
    for visible in (mask, None):
        mixed = attend_by_sums(query, keys, values, visible, 0.3)
        torch.testing.assert_close(mixed, attend(query, keys, values, visible, 0.3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_models_weights_are_used_as_they_are(dtype, padded_prompts, build, logits_of):
    """A decoder never draws with the stale weights."""
    model, following = build("llama").to(dtype), torch.randint(3, VOCABULARY, (3, STEPS))
    decoder = LlamaDecoder(model, LEGAL)
    before = logits_of(decoder, *padded_prompts, following)
    model.model.layers[0].mlp.down_proj.weight.data.mul_(2)
    after = logits_of(decoder, *padded_prompts, following)
    assert not torch.allclose(before, after, atol=0.5)
    torch.testing.assert_close(after, logits_of(LlamaDecoder(model, LEGAL), *padded_prompts, following))


# What is not known goes through the stock forward


def hooked(build):
    model = build("llama")
    model.model.layers[1].mlp.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    return model


def replaced(build):
    class Scaled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    model = build("llama")
    layer = model.model.layers[0].mlp
    layer.up_proj = Scaled(32, 48, bias=False)
    return model


def sliding(build):
    return build("mistral", sliding_window=3)


def partly_sliding(build):
    layers = ["full_attention", "sliding_attention"]
    return build("qwen3", use_sliding_window=True, sliding_window=3, max_window_layers=1, layer_types=layers)


def of_changing_rope(build):
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 4}
    return build("llama", rope_parameters=rope, max_position_embeddings=4)


def of_another_kind(build):
    return build("gemma")


@pytest.mark.parametrize("build_one", [hooked, replaced, sliding, partly_sliding, of_changing_rope, of_another_kind])
def test_other_models_take_the_stock_forward(build_one, build):
    model = build_one(build)
    assert not is_llama_like(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert isinstance(build_decoder(model, LEGAL), StockDecoder)


def test_the_stock_forward_is_announced_once(build):
    class Renamed(type(build("gemma"))):
        pass

    model = build("gemma")
    model.__class__ = Renamed
    with pytest.warns(UserWarning, match="Renamed draws through its stock forward"):
        build_decoder(model, LEGAL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_decoder(model, LEGAL)
