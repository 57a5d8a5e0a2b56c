"""Int8 weights stay near the weights of the model, and a row does not depend on the rows beside it."""

import weakref

import pytest
import torch

from vqlm.lm.decoding.decoders import build_decoder
from vqlm.lm.decoding.llama_decoder import LlamaDecoder
from vqlm.lm.decoding.packed_weights import quantize_rows, require_int8
from vqlm.lm.settings import DecodingOptions
from vqlm.training.errors import UserError

VOCABULARY, LEGAL, STEPS = 60, slice(20, 55), 6


def skip_without_int8():
    try:
        require_int8(torch.device("cpu"))
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kind", ["llama", "biases", "qwen3", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_weights_stay_near(kind, dtype, padded_prompts, build, logits_of):
    skip_without_int8()
    model, following = build(kind), torch.randint(3, VOCABULARY, (3, STEPS))
    exact = logits_of(LlamaDecoder(model, LEGAL), *padded_prompts, following)
    logits = logits_of(LlamaDecoder(model.to(dtype), LEGAL, quantize="int8"), *padded_prompts, following)
    assert 0 < (logits - exact).std() < 0.05 * exact.std()


def test_a_row_of_int8_products_equals_itself_alone(padded_prompts, build, logits_of):
    skip_without_int8()
    model, following = build("llama"), torch.randint(3, VOCABULARY, (3, STEPS))
    together = logits_of(LlamaDecoder(model, LEGAL, quantize="int8"), *padded_prompts, following)
    alone = LlamaDecoder(model, LEGAL, quantize="int8")
    for row, (ids, mask) in enumerate(zip(*padded_prompts, strict=True)):
        logits = logits_of(alone, ids[mask][None], mask[mask][None], following[row : row + 1])
        torch.testing.assert_close(logits[:, 0], together[:, row], atol=2e-5, rtol=1e-5)


def test_packed_weights_end_with_their_decoder(padded_prompts, build, logits_of):
    skip_without_int8()
    decoder = LlamaDecoder(build("llama"), LEGAL, quantize="int8")
    logits_of(decoder, *padded_prompts, torch.randint(3, VOCABULARY, (3, STEPS)))
    packed = weakref.ref(decoder.weights[0].weight)
    del decoder
    assert packed() is None


def test_int8_rows_by_hand():
    rounded, scale = quantize_rows(torch.tensor([[127.0, -63.4, 0.0], [0.0, 0.0, 0.0], [0.5, -1.0, 0.25]]))
    assert rounded.tolist() == [[127, -63, 0], [0, 0, 0], [64, -127, 32]]
    torch.testing.assert_close(scale[[0, 2]], torch.tensor([1.0, 1 / 127]))


def test_int8_where_it_does_not_work(monkeypatch, build):
    with pytest.raises(UserError, match="draws on a CPU only, found cuda"):
        require_int8(torch.device("cuda"))
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(UserError, match="needs a CPU with VNNI"):
        LlamaDecoder(build("llama"), LEGAL, quantize="int8")
    with pytest.raises(UserError, match="plain llama or its like, found Gemma"):
        build_decoder(build("gemma"), LEGAL, DecodingOptions(quantize="int8"))
    with pytest.raises(UserError, match="must be 'int8' or left out, found 'int4'"):
        DecodingOptions(quantize="int4")
