"""Drawing codes: cache, batches, guidance and its unconditional rows, generators, damaged weights."""

import warnings
from types import SimpleNamespace

import pytest
import torch

import vqlm.lm.decoding.draw
from vqlm.data_prep.sequences import caption_ids, prompt_ids
from vqlm.lm.decoding.decoders import build_decoder
from vqlm.lm.decoding.draw import draw_codes, rows_that_fit
from vqlm.lm.decoding.sampling import sample
from vqlm.lm.settings import DecodingOptions, SamplingConfig
from vqlm.training.errors import UserError

NUM_CODES = 6
ARCHITECTURES = ["llama", "gpt2"]
GREEDY = SamplingConfig(temperature=0.0)
CAPTIONS = ["red square", None, "a green circle beside a blue one", "red"]


@pytest.fixture
def prompts(vocabulary) -> list[list[int]]:
    """Of four different lengths."""
    prompts = prompt_ids(vocabulary, caption_ids(vocabulary, CAPTIONS, 20))
    assert len({len(prompt) for prompt in prompts}) == 4
    return prompts


@pytest.fixture(params=ARCHITECTURES)
def model(request, build_tiny):
    return build_tiny(request.param)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def code_logits(model, vocabulary, row: list[int]) -> torch.Tensor:
    """(K,) of the code that follows `row`, by a whole forward without cache, batch or padding."""
    logits = model(input_ids=torch.tensor([row]), use_cache=False).logits
    return logits[0, -1, vocabulary.image.offset : vocabulary.image.stop].detach()


def test_exactly_the_codes_of_a_picture(model, vocabulary, prompts):
    codes = draw_codes(model, vocabulary, prompts, NUM_CODES, SamplingConfig())
    assert codes.shape == (4, NUM_CODES)
    assert codes.dtype == torch.int64
    assert codes.min() >= 0
    assert codes.max() < vocabulary.image.size


def test_only_codes_whatever_the_model_prefers(model, vocabulary, prompts):
    before = draw_codes(model, vocabulary, prompts, NUM_CODES, SamplingConfig(), generators(0)[0])
    bias = torch.full((vocabulary.size,), 100.0)
    bias[vocabulary.image.offset : vocabulary.image.stop] = 0
    model.get_output_embeddings().register_forward_hook(lambda _module, _inputs, logits: logits + bias)
    assert model(input_ids=torch.tensor(prompts[:1])).logits[0, -1].argmax() < vocabulary.image.offset
    after = draw_codes(model, vocabulary, prompts, NUM_CODES, SamplingConfig(), generators(0)[0])
    assert torch.equal(after, before)


def test_greedy_equals_a_plain_loop(model, vocabulary, prompts):
    drawn = draw_codes(model, vocabulary, prompts, NUM_CODES, GREEDY)
    for prompt, codes in zip(prompts, drawn.tolist(), strict=True):
        row = list(prompt)
        for code in codes:
            assert code_logits(model, vocabulary, row).argmax().item() == code
            row.append(vocabulary.image.offset + code)


class RecordedDecoder:
    """A decoder that keeps the logits that it gave."""

    def __init__(self, *arguments):
        self.decoder, self.logits = build_decoder(*arguments), []

    def read(self, *arguments):
        self.logits.append(self.decoder.read(*arguments))
        return self.logits[-1]

    def step(self, *arguments):
        self.logits.append(self.decoder.step(*arguments))
        return self.logits[-1]


@pytest.fixture
def decoders(monkeypatch) -> list[RecordedDecoder]:
    """Those that were built, in order."""
    built = []

    def build(*arguments):
        built.append(RecordedDecoder(*arguments))
        return built[-1]

    monkeypatch.setattr("vqlm.lm.decoding.draw.build_decoder", build)
    return built


def test_guided_and_cached_equal_whole_forwards_at_every_step(model, vocabulary, prompts, decoders, monkeypatch):
    sampled = []
    monkeypatch.setattr(
        "vqlm.lm.decoding.draw.sample", lambda guided, *others: sampled.append(guided) or sample(guided, *others)
    )
    drawn = draw_codes(model, vocabulary, prompts, NUM_CODES, SamplingConfig(guidance_scale=2.5))
    (decoder,) = decoders
    assert len(decoder.logits) == len(sampled) == NUM_CODES
    for step, (logits, guided) in enumerate(zip(decoder.logits, sampled, strict=True)):
        conditional, unconditional = logits.chunk(2)
        assert not torch.allclose(conditional, guided.to(conditional), atol=1e-2)
        for index, prompt in enumerate(prompts):
            past = vocabulary.codes_to_ids(drawn[index, :step]).tolist()
            with_prompt = code_logits(model, vocabulary, prompt + past)
            without = code_logits(model, vocabulary, [vocabulary.bos, vocabulary.boi] + past)
            torch.testing.assert_close(conditional[index], with_prompt, atol=1e-4, rtol=0)
            torch.testing.assert_close(unconditional[index], without, atol=1e-4, rtol=0)
            by_hand = without.log_softmax(-1) + 2.5 * (with_prompt.log_softmax(-1) - without.log_softmax(-1))
            torch.testing.assert_close(guided[index], by_hand.log_softmax(-1), atol=1e-3, rtol=0)
            if CAPTIONS[index] is None:
                torch.testing.assert_close(conditional[index], unconditional[index], atol=1e-4, rtol=0)
            else:
                assert not torch.allclose(conditional[index], unconditional[index], atol=1e-2)


@pytest.mark.parametrize(("scale", "rows"), [(1.0, 4), (2.0, 8), (0.0, 8)])
def test_only_guidance_needs_unconditional_rows(build_tiny, vocabulary, prompts, scale, rows, decoders):
    draw_codes(build_tiny(), vocabulary, prompts, NUM_CODES, SamplingConfig(guidance_scale=scale))
    assert [len(logits) for logits in decoders[0].logits] == [rows] * NUM_CODES


def test_a_scale_of_one_equals_guidance_of_almost_one(model, vocabulary, prompts):
    drawn = [
        draw_codes(model, vocabulary, prompts, NUM_CODES, SamplingConfig(guidance_scale=scale), generators(3)[0])
        for scale in (1.0, 1.0 + 1e-6)
    ]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("is_greedy", [True, False])
def test_a_batch_of_one_equals_a_batch_of_many(model, vocabulary, prompts, scale, is_greedy):
    settings = SamplingConfig(guidance_scale=scale, temperature=0.0 if is_greedy else 1.0)
    together = draw_codes(model, vocabulary, prompts, NUM_CODES, settings, generators(0, 1, 2, 3))
    alone = [
        draw_codes(model, vocabulary, [prompt], NUM_CODES, settings, generators(seed))
        for seed, prompt in enumerate(prompts)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_the_same_seed_draws_the_same(build_tiny, vocabulary, prompts):
    model = build_tiny()
    first, again, other = (
        draw_codes(model, vocabulary, prompts, NUM_CODES, SamplingConfig(), generators(seed)[0]) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rows_of_one_generator_differ(build_tiny, vocabulary, prompts):
    codes = draw_codes(build_tiny(), vocabulary, prompts[:1] * 20, NUM_CODES, SamplingConfig(), generators(0)[0])
    assert len({tuple(row) for row in codes.tolist()}) > 1


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_generator_for_each_picture(build_tiny, vocabulary, prompts, number):
    with pytest.raises(UserError, match=f"one for each of the 4 pictures; found {number}"):
        draw_codes(build_tiny(), vocabulary, prompts, NUM_CODES, SamplingConfig(), generators(*range(number)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights(build_tiny, vocabulary, prompts, value):
    model = build_tiny()
    model.get_output_embeddings().weight.data[vocabulary.image.offset + 2] = value
    with pytest.raises(UserError, match="logits are not finite at code 0"):
        draw_codes(model, vocabulary, prompts, NUM_CODES, SamplingConfig())


@pytest.mark.parametrize("place", [2, NUM_CODES - 1])
def test_weights_that_fail_in_the_middle(build_tiny, vocabulary, prompts, place):
    """The first two codes are known, and asked for at once."""
    model, runs = build_tiny("gpt2"), []

    def damage(_module, _inputs, logits):
        runs.append(logits)
        return logits.fill_(-torch.inf) if len(runs) == place - 1 else logits

    model.get_output_embeddings().register_forward_hook(damage)
    known = torch.full((4, NUM_CODES), -1)
    known[:, :2] = 3
    with pytest.raises(UserError, match=f"logits are not finite at code {place}"):
        draw_codes(model, vocabulary, prompts, NUM_CODES, SamplingConfig(), known=known)


def test_the_callers_prompts_are_untouched(build_tiny, vocabulary, prompts):
    before = [list(prompt) for prompt in prompts]
    draw_codes(build_tiny(), vocabulary, prompts, NUM_CODES, SamplingConfig(guidance_scale=2.0))
    assert prompts == before


# Batches larger than memory


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_parts_draw_what_the_whole_draws(build_tiny, vocabulary, prompts, batch_size):
    known = torch.full((4, NUM_CODES), -1)
    known[1, :3], known[2, 4] = torch.tensor([3, 1, 4]), 5
    negative = [[vocabulary.bos, 60 + row, vocabulary.boi] for row in range(4)]
    model, settings = build_tiny(), SamplingConfig(guidance_scale=2.0)

    def draw(**options):
        return draw_codes(
            model, vocabulary, prompts, NUM_CODES, settings, generators(0)[0], known=known, negative_prompts=negative,
            options=DecodingOptions(**options),
        )  # fmt: skip

    assert torch.equal(draw(batch_size=batch_size), draw())


def test_a_part_that_does_not_fit_is_halved(build_tiny, vocabulary, prompts, monkeypatch):
    model, tried = build_tiny(), []
    expected = draw_codes(model, vocabulary, prompts, NUM_CODES, SamplingConfig(), generators(0)[0])
    whole = vqlm.lm.decoding.draw._draw_part

    def short_of_memory(model, vocabulary, rows, *others):
        tried.append(len(rows.prompts))
        if len(rows.prompts) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return whole(model, vocabulary, rows, *others)

    monkeypatch.setattr("vqlm.lm.decoding.draw._draw_part", short_of_memory)
    with pytest.warns(UserWarning, match="Memory is short: pictures are drawn 1 at a time"):
        drawn = draw_codes(model, vocabulary, prompts, NUM_CODES, SamplingConfig(), generators(0)[0])
    assert tried == [4, 2, 1, 1, 1, 1]
    assert torch.equal(drawn, expected)


def test_another_error_is_not_taken_for_short_memory(build_tiny, vocabulary, prompts, monkeypatch):
    def broken(*_):
        raise RuntimeError("the machine is on fire")

    monkeypatch.setattr("vqlm.lm.decoding.draw._draw_part", broken)
    with pytest.raises(RuntimeError, match="on fire"):
        draw_codes(build_tiny(), vocabulary, prompts, NUM_CODES, SamplingConfig())


def test_rows_that_fit_are_counted_beforehand(build_tiny, monkeypatch):
    """2 layers of 2 heads of 16, keys and values, unconditional rows, fp32: 2 * 32 * 2 * 2 * 4 = 1,024 bytes per id."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1024 * 10 * 7 * 2 + 5))
    assert rows_that_fit(build_tiny(), 10) == 7
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=5))
    assert rows_that_fit(build_tiny(), 10) == 1


def test_what_was_kept_for_the_next_batch_does_not_make_it_smaller(build_tiny, vocabulary, prompts, monkeypatch):
    fitting = [1]
    monkeypatch.setattr("vqlm.lm.decoding.draw.rows_that_fit", lambda *_: fitting[-1])
    monkeypatch.setattr("vqlm.lm.decoding.draw.return_freed_memory", lambda: fitting.append(4))
    model, parts = build_tiny(), []

    def draw():
        parts.clear()
        return draw_codes(
            model, vocabulary, prompts, NUM_CODES, GREEDY, on_codes=lambda _step, codes: parts.append(len(codes))
        )

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Memory is short")
        expected = draw()
    assert set(parts) == {4}
    fitting.append(3)
    monkeypatch.setattr("vqlm.lm.decoding.draw.return_freed_memory", lambda: fitting.append(3))
    with pytest.warns(UserWarning, match="Memory is short: pictures are drawn 3 at a time"):
        assert torch.equal(draw(), expected)
    assert set(parts) == {3, 1}
