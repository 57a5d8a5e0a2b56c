"""The decoder that runs a model's layers itself gives what the model's own forward gives."""

import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LogitsProcessor
from vqlm.lm.decoding.decoders import StockDecoder, build_decoder
from vqlm.lm.decoding.llama_decoder import (
    LlamaDecoder,
    _compile_key,
    attend,
    attend_by_sums,
    is_llama_like,
    run_step,
    step_anywhere,
)
from vqlm.lm.decoding.packed_weights import can_pack, quantize_rows, require_int8
from vqlm.training.errors import UserError

VOCABULARY, LEGAL = 60, slice(20, 55)
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 2.0, "original_max_position_embeddings": 32}
KINDS = {
    "llama": {"model_type": "llama"},
    "one head for all keys": {"model_type": "llama", "num_key_value_heads": 1},
    "biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "untied": {"model_type": "llama", "tie_word_embeddings": False},
    "yarn": {"model_type": "llama", "rope_parameters": YARN},
    "another activation": {"model_type": "llama", "hidden_act": "gelu"},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3"},
}
STEPS = 6
ROOT = Path(__file__).parents[2]
COMPILED = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vqlm.lm.decoding.llama_decoder import LlamaDecoder
from vqlm.lm.decoding.packed_weights import can_pack

torch.manual_seed(0)
CONFIG = LlamaConfig(
    vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, initializer_range=0.3,
)
model = LlamaForCausalLM(CONFIG).eval()
LEGAL = slice(20, 55)


def compare(shapes, check, quantize=None, is_compiled_anew=True):
    if is_compiled_anew:
        torch.compiler.reset()
    torch.compiler.set_stance("default" if is_compiled_anew else "fail_on_recompile")
    compiled = LlamaDecoder(model, LEGAL, compile=True, quantize=quantize)
    plain = LlamaDecoder(model, LEGAL, quantize=quantize)
    for rows, is_padded in shapes:
        mask = torch.arange(5) >= 2 * is_padded * torch.arange(rows).unsqueeze(1)
        ids = torch.randint(3, 60, (rows, 5)) * mask
        check(compiled.read(ids, mask, 6), plain.read(ids, mask, 6))
        for column in torch.randint(3, 60, (6, rows)):
            check(compiled.step(column), plain.step(column))


def equal(made, expected):
    torch.testing.assert_close(made, expected, atol=2e-5, rtol=1e-5)


def near(made, expected):  # the cache is bf16 in the one and fp32 in the other
    assert (made - expected).std() < 0.05 * expected.std(), ((made - expected).std(), expected.std())


compare([(3, True), (3, False), (1, False)], equal)
model = LlamaForCausalLM(CONFIG).eval()  # one like it needs no compiling
compare([(4, True)], equal, is_compiled_anew=False)
torch.compiler.set_stance("default")
model.config.rms_norm_eps = 0.5  # one that differs in nothing but a number does
compiled, plain = LlamaDecoder(model, LEGAL, compile=True), LlamaDecoder(model, LEGAL)
ids, mask = torch.randint(3, 60, (2, 5)), torch.ones(2, 5, dtype=torch.bool)
equal(compiled.read(ids, mask, 6), plain.read(ids, mask, 6))
equal(compiled.step(ids[:, 0]), plain.step(ids[:, 0]))
if can_pack(torch.zeros(1, dtype=torch.bfloat16)):
    model.to(torch.bfloat16)
    model.model.layers = model.model.layers[:1]  # compiles in half the time; every layer is compiled alike
    model.config.num_hidden_layers = 1
    compare([(3, True)], near)
    model.model.layers[0].mlp.down_proj.weight.data.mul_(3)  # no weights of yesterday
    compare([(4, True)], near, is_compiled_anew=False)
    compare([(3, True)], near, "int8")
print("the same")
"""
SYMBOLS = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vqlm.lm.decoding.llama_decoder import LlamaDecoder, run_step

counts = []


def count(graph, inputs):
    counts.append(sum(isinstance(value, int | torch.SymInt) for value in inputs))
    return graph


for layers in (1, 3):
    torch.compiler.reset()
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
    )).to(torch.bfloat16)
    decoder = LlamaDecoder(model, slice(20, 55), compile=True)
    decoder.next_logits = torch.compile(run_step, dynamic=True, backend=count)
    decoder.read(torch.full((3, 5), 7), torch.ones(3, 5, dtype=torch.bool), 2)
    decoder.step(torch.full((3,), 30))
print(*counts)
"""


def build(model_type: str, **changed):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(SIZES | changed))).eval()
    for name, parameter in model.named_parameters():  # norms and biases start at 1 and 0, which would hide mistakes
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    return model


@pytest.fixture(params=KINDS)
def model(request):
    return build(**KINDS[request.param])


@pytest.fixture
def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows of 5, 3 and 1 ids, padded on the left."""
    ids = torch.randint(3, VOCABULARY, (3, 5))
    mask = torch.arange(5) >= torch.tensor([[0], [2], [4]])
    return ids * mask, mask


def logits_of(decoder, ids, mask, following) -> torch.Tensor:
    """(STEPS + 1, R, K)"""
    first = decoder.read(ids, mask, STEPS)
    return torch.stack([first, *(decoder.step(column) for column in following.T)])


def test_every_step_equals_the_stock_forward(model, prompts):
    following = torch.randint(3, VOCABULARY, (3, STEPS))
    ours = build_decoder(model, LEGAL)
    assert isinstance(ours, LlamaDecoder)
    made = logits_of(ours, *prompts, following)
    expected = logits_of(StockDecoder(model, LEGAL), *prompts, following)
    assert made.shape == (STEPS + 1, 3, 35)
    torch.testing.assert_close(made, expected, atol=2e-5, rtol=1e-5)
    assert made.std() > 0.1


class _StepAnywhere(LlamaDecoder):
    """A step as a CUDA graph captures it, without the graph."""

    @torch.no_grad()
    def step(self, ids):
        logits = step_anywhere(self, ids.unsqueeze(1), self.next_position, torch.tensor([self.place]))
        self.keep(1)
        return logits[:, 0]


def test_a_step_over_the_whole_cache_equals_one_over_what_is_filled(model, prompts):
    following = torch.randint(3, VOCABULARY, (3, STEPS))
    made, expected = (logits_of(kind(model, LEGAL), *prompts, following) for kind in (_StepAnywhere, LlamaDecoder))
    torch.testing.assert_close(made, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.cuda
def test_a_cuda_graph_equals_the_stock_forward(model, prompts):
    model, (ids, mask) = model.to("cuda"), (tensor.cuda() for tensor in prompts)
    following = torch.randint(3, VOCABULARY, (3, STEPS), device="cuda")
    for rows in (3, 1):  # each batch has a graph of its own
        ours = build_decoder(model, LEGAL, compile=rows == 1)
        made = logits_of(ours, ids[:rows], mask[:rows], following[:rows])
        assert ours.graph is not None
        expected = logits_of(StockDecoder(model, LEGAL), ids[:rows], mask[:rows], following[:rows])
        torch.testing.assert_close(made, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.cuda
def test_guesses_and_steps_of_a_cuda_graph_share_a_cache(model, prompts):
    model, (ids, mask) = model.to("cuda"), (tensor.cuda() for tensor in prompts)
    following = torch.randint(3, VOCABULARY, (3, STEPS), device="cuda")
    one_by_one, ours = (build_decoder(model, LEGAL) for _ in range(2))
    expected = logits_of(one_by_one, ids, mask, following)
    made = [ours.read(ids, mask, STEPS), ours.step(following[:, 0])]
    guessed = ours.guess(following[:, 1:4])
    ours.keep(3)
    made += [*guessed.unbind(1), ours.step(following[:, 4])]
    torch.testing.assert_close(torch.stack(made), expected[:6], atol=2e-4, rtol=2e-4)


def test_a_row_equals_itself_alone(model, prompts):
    following = torch.randint(3, VOCABULARY, (3, STEPS))
    together = logits_of(LlamaDecoder(model, LEGAL), *prompts, following)
    for row, (ids, mask) in enumerate(zip(*prompts, strict=True)):
        alone = logits_of(LlamaDecoder(model, LEGAL), ids[mask][None], mask[mask][None], following[row : row + 1])
        torch.testing.assert_close(together[:, row], alone[:, 0], atol=2e-5, rtol=1e-5)


class OnlyLegal(LogitsProcessor):
    def __call__(self, _ids, scores):
        kept = torch.full_like(scores, -torch.inf)
        kept[:, LEGAL] = scores[:, LEGAL]
        return kept


def test_greedy_ids_equal_those_of_generate(model, prompts):
    ids, mask = prompts
    expected = model.generate(
        input_ids=ids, attention_mask=mask.long(), max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False,
        logits_processor=[OnlyLegal()],
    )[:, 5:]  # fmt: skip
    decoder = build_decoder(model, LEGAL)
    drawn = [decoder.read(ids, mask, STEPS - 1).argmax(-1) + LEGAL.start]
    for _ in range(STEPS - 1):
        drawn.append(decoder.step(drawn[-1]).argmax(-1) + LEGAL.start)
    assert torch.equal(torch.stack(drawn, 1), expected)


@pytest.mark.parametrize("kind", ["llama", "biases", "qwen3"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_bf16_weights_are_nearer_to_fp32_than_the_stock_forward(kind, is_packed, prompts, monkeypatch):
    """The residual stream stays fp32 here, which the stock forward rounds to bf16 after every block."""
    if is_packed and not can_pack(torch.zeros(1, dtype=torch.bfloat16)):
        pytest.skip("this CPU multiplies no bf16")
    monkeypatch.setattr("vqlm.lm.decoding.llama_decoder.can_pack", lambda _weight: is_packed)
    model, following = build(**KINDS[kind]), torch.randint(3, VOCABULARY, (3, STEPS))
    rounded = model.to(torch.bfloat16)
    ours = logits_of(LlamaDecoder(rounded, LEGAL), *prompts, following)
    stock = logits_of(StockDecoder(rounded, LEGAL), *prompts, following)
    exact = logits_of(StockDecoder(rounded.float(), LEGAL), *prompts, following)
    spread = exact.std()
    assert (ours - exact).abs().max() < 0.1 * spread
    assert (ours - exact).square().mean() < (stock - exact).square().mean()


@pytest.mark.cuda
def test_a_cuda_graph_of_bf16_weights_is_nearer_to_fp32_than_the_stock_forward(prompts):
    (ids, mask), model = (tensor.cuda() for tensor in prompts), build(**KINDS["llama"]).to("cuda", torch.bfloat16)
    following = torch.randint(3, VOCABULARY, (3, STEPS), device="cuda")
    ours, stock = (logits_of(kind(model, LEGAL), ids, mask, following) for kind in (LlamaDecoder, StockDecoder))
    exact = logits_of(StockDecoder(model.float(), LEGAL), ids, mask, following)
    assert (ours - exact).square().mean() < (stock - exact).square().mean()


def skip_without_int8():
    try:
        require_int8(torch.device("cpu"))
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("kind", ["llama", "biases", "qwen3", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_weights_stay_near(kind, dtype, prompts):
    skip_without_int8()
    model, following = build(**KINDS[kind]), torch.randint(3, VOCABULARY, (3, STEPS))
    exact = logits_of(LlamaDecoder(model, LEGAL), *prompts, following)
    made = logits_of(LlamaDecoder(model.to(dtype), LEGAL, quantize="int8"), *prompts, following)
    assert 0 < (made - exact).std() < 0.05 * exact.std()


def test_a_row_of_int8_products_equals_itself_alone(prompts):
    skip_without_int8()
    model, following = build("llama"), torch.randint(3, VOCABULARY, (3, STEPS))
    together = logits_of(LlamaDecoder(model, LEGAL, quantize="int8"), *prompts, following)
    alone = LlamaDecoder(model, LEGAL, quantize="int8")
    for row, (ids, mask) in enumerate(zip(*prompts, strict=True)):
        made = logits_of(alone, ids[mask][None], mask[mask][None], following[row : row + 1])
        torch.testing.assert_close(made[:, 0], together[:, row], atol=2e-5, rtol=1e-5)


def test_packed_weights_end_with_their_decoder(prompts):
    skip_without_int8()
    decoder = LlamaDecoder(build("llama"), LEGAL, quantize="int8")
    logits_of(decoder, *prompts, torch.randint(3, VOCABULARY, (3, STEPS)))
    packed = weakref.ref(decoder.weights[0].weight)
    del decoder
    assert packed() is None


def test_int8_rows_by_hand():
    rounded, scale = quantize_rows(torch.tensor([[127.0, -63.4, 0.0], [0.0, 0.0, 0.0], [0.5, -1.0, 0.25]]))
    assert rounded.tolist() == [[127, -63, 0], [0, 0, 0], [64, -127, 32]]
    torch.testing.assert_close(scale[[0, 2]], torch.tensor([1.0, 1 / 127]))


def test_int8_where_it_does_not_work(monkeypatch):
    with pytest.raises(UserError, match="draws on a CPU only, found cuda"):
        require_int8(torch.device("cuda"))
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(UserError, match="needs a CPU with VNNI"):
        LlamaDecoder(build("llama"), LEGAL, quantize="int8")
    with pytest.raises(UserError, match="plain llama or its like, found Gemma"):
        build_decoder(build("gemma"), LEGAL, quantize="int8")
    with pytest.raises(UserError, match="must be 'int8' or left out, found 'int4'"):
        build_decoder(build("llama"), LEGAL, quantize="int4")


def test_a_compiled_step_gives_the_same():
    """In a process of its own: the checks of shapes that these tests install cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "the same"


@pytest.mark.parametrize("change", ["epsilon", "activation", "precision", "layout", "size"])
def test_a_step_is_compiled_anew_for_what_it_takes_for_constant(change):
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
        pytest.skip("the numbers are those of packed weights, which nothing is won by here")
    done = subprocess.run([sys.executable, "-c", SYMBOLS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one_layer, three_layers = done.stdout.split()
    assert 0 < int(one_layer) == int(three_layers)


def test_rows_that_are_alike_are_read_once(model, prompts, monkeypatch):
    ids, mask = (tensor[[0, 1, 0, 2, 1]] for tensor in prompts)
    alone = [LlamaDecoder(model, LEGAL) for _ in ids]
    together, read = LlamaDecoder(model, LEGAL), []
    expected = [one.read(own[None], seen[None], 2) for one, own, seen in zip(alone, ids, mask, strict=True)]
    monkeypatch.setattr(
        "vqlm.lm.decoding.llama_decoder.run_step", lambda *given: read.append(given[2]) or run_step(*given)
    )
    torch.testing.assert_close(together.read(ids, mask, 2), torch.cat(expected), atol=2e-5, rtol=1e-5)
    assert len(read) == 1
    assert len(read[0]) == 3
    ids = torch.randint(3, VOCABULARY, (5,))
    expected = torch.cat([one.step(own[None]) for one, own in zip(alone, ids, strict=True)])
    torch.testing.assert_close(together.step(ids), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_both_attentions_are_one(groups):
    query, keys, values = torch.randn(3, 4, 1, 8), torch.randn(3, groups, 7, 8), torch.randn(3, groups, 7, 8)
    mask = torch.zeros(3, 1, 1, 7).masked_fill(torch.arange(7) < torch.tensor([0, 2, 5]).view(3, 1, 1, 1), -torch.inf)
    for own in (mask, None):
        made = attend_by_sums(query, keys, values, own, 0.3)
        torch.testing.assert_close(made, attend(query, keys, values, own, 0.3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_models_weights_are_used_as_they_are(dtype, prompts):
    """A decoder never draws with the weights of yesterday."""
    model, following = build("llama").to(dtype), torch.randint(3, VOCABULARY, (3, STEPS))
    decoder = LlamaDecoder(model, LEGAL)
    before = logits_of(decoder, *prompts, following)
    model.model.layers[0].mlp.down_proj.weight.data.mul_(2)
    after = logits_of(decoder, *prompts, following)
    assert not torch.allclose(before, after, atol=0.5)
    torch.testing.assert_close(after, logits_of(LlamaDecoder(model, LEGAL), *prompts, following))


# What is not known goes through the stock forward


def hooked():
    model = build("llama")
    model.model.layers[1].mlp.register_forward_hook(lambda _module, _inputs, made: 2 * made)
    return model


def replaced():
    class Scaled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    model = build("llama")
    layer = model.model.layers[0].mlp
    layer.up_proj = Scaled(32, 48, bias=False)
    return model


def sliding():
    return build("mistral", sliding_window=3)


def partly_sliding():
    layers = ["full_attention", "sliding_attention"]
    return build("qwen3", use_sliding_window=True, sliding_window=3, max_window_layers=1, layer_types=layers)


def of_changing_rope():
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 4}
    return build("llama", rope_parameters=rope, max_position_embeddings=4)


def of_another_kind():
    return build("gemma")


@pytest.mark.parametrize("build_one", [hooked, replaced, sliding, partly_sliding, of_changing_rope, of_another_kind])
def test_other_models_take_the_stock_forward(build_one, prompts):
    model = build_one()
    assert not is_llama_like(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert isinstance(build_decoder(model, LEGAL), StockDecoder)


def test_the_stock_forward_is_announced_once():
    class Renamed(type(build("gemma"))):
        pass

    model = build("gemma")
    model.__class__ = Renamed
    with pytest.warns(UserWarning, match="Renamed draws through its stock forward"):
        build_decoder(model, LEGAL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_decoder(model, LEGAL)
