"""Codes that are guessed and judged have the distribution of codes that are drawn one by one."""

import itertools

import pytest
import torch
from scipy.stats import chisquare

from vqlm.lm.decoding.draw import draw_codes
from vqlm.lm.decoding.sampling import guided_logits
from vqlm.lm.decoding.speculative import count_kept, draw_speculatively
from vqlm.lm.settings import SamplingConfig
from vqlm.training.errors import UserError

DRAWS = 2000


def code_logits(model, vocabulary, row):
    return model(input_ids=torch.tensor([row])).logits[:, -1, vocabulary.image.offset : vocabulary.image.stop]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_three_codes_have_the_models_own_distribution(build_tiny, vocabulary, scale):
    """By chi-squared tests against the exact probabilities of all 16 x 16 x 16."""
    model, settings = build_tiny(spread=0.1), SamplingConfig(guidance_scale=scale, temperature=0.8, min_p=0.05)
    prompt, empty = [vocabulary.bos, 70, 80, vocabulary.boi], [vocabulary.bos, vocabulary.boi]

    @torch.no_grad()
    def probabilities(codes: list[int]) -> torch.Tensor:
        ids = [vocabulary.image.offset + code for code in codes]
        pair = [code_logits(model, vocabulary, start + ids) for start in (prompt, empty)]
        return (guided_logits(*pair, settings) / 0.8).softmax(-1)[0].double()

    exact = torch.zeros(16, 16, 16, dtype=torch.float64)
    for first, second in itertools.product(range(16), repeat=2):
        exact[first, second] = (
            probabilities([])[first] * probabilities([first])[second] * probabilities([first, second])
        )
    generator, drawn_counts = torch.Generator().manual_seed(0), torch.zeros_like(exact)
    for _ in range(DRAWS):
        codes, _ = draw_speculatively(model, vocabulary, prompt, 3, settings, 4, generator)
        drawn_counts[tuple(codes.tolist())] += 1
    assert drawn_counts[exact == 0].sum() == 0
    for summed in range(3):  # over which of the three; pairs of the other two have enough draws each
        counts, expected = drawn_counts.sum(summed).flatten(), exact.sum(summed).flatten() / exact.sum() * DRAWS
        common = expected >= 5
        assert common.sum() > 50
        counts, expected = (torch.cat([part[common], part[~common].sum()[None]]) for part in (counts, expected))
        assert chisquare(counts.numpy(), expected.numpy()).pvalue > 0.005


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("window", [2, 5, 16])
def test_at_temperature_0_the_picture_is_the_plain_one(build_tiny, vocabulary, scale, window):
    model, settings = build_tiny(), SamplingConfig(guidance_scale=scale, temperature=0.0)
    for prompt in ([vocabulary.bos, 70, vocabulary.boi], [vocabulary.bos, vocabulary.boi]):
        codes, forwards = draw_speculatively(model, vocabulary, prompt, 16, settings, window)
        assert torch.equal(codes, draw_codes(model, vocabulary, [prompt], 16, settings)[0])
        assert forwards <= 16


def test_a_guess_is_kept_as_often_as_it_should_be():
    """By hand: q is certain of code 1, which p gives 0.3; q is right about code 0; q gives code 2 twice what p does."""
    guesses = torch.tensor([0, 2, 1])
    guessed_from = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.2, 0.6], [0.0, 1.0, 0.0]])
    probabilities = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.2, 0.3], [0.4, 0.3, 0.3], [1.0, 0.0, 0.0]])
    generator = torch.Generator().manual_seed(0)
    kept = torch.tensor([count_kept(guesses, guessed_from, probabilities, generator) for _ in range(4000)])
    shares = [(kept == count).double().mean().item() for count in range(4)]
    assert shares == pytest.approx([0.0, 0.5, 0.5 * 0.7, 0.5 * 0.3], abs=0.03)


def test_a_picture_of_one_colour_takes_few_forwards(build_tiny, vocabulary):
    """A model whose every code is the one before it: all guesses but the first are right."""
    model = build_tiny()
    head = torch.zeros(vocabulary.size)
    head[vocabulary.image.offset + 7] = 1.0
    with torch.no_grad():
        model.model.norm.weight.zero_()
        model.lm_head.bias = torch.nn.Parameter(50 * head)
    codes, forwards = draw_speculatively(model, vocabulary, [vocabulary.bos, vocabulary.boi], 16, SamplingConfig(), 8)
    assert codes.tolist() == [7] * 16
    assert forwards == 3  # the prompt, then 8 codes of each forward


def test_what_cannot_be_drawn_so(build_tiny, vocabulary):
    prompt = [vocabulary.bos, vocabulary.boi]
    with pytest.raises(UserError, match="`speculative` needs llama or its like, found GPT2LMHeadModel"):
        draw_speculatively(build_tiny("gpt2"), vocabulary, prompt, 4, SamplingConfig(), 4)
    with pytest.raises(UserError, match="`speculative` must be at least 2, .* found 1"):
        draw_speculatively(build_tiny(), vocabulary, prompt, 4, SamplingConfig(), 1)


def test_the_pipeline_draws_so_too(pipeline):
    prompts = ["red square", "a green circle"]
    plain = pipeline(prompts, temperature=0.0, guidance_scale=3.0, negative_prompt="blue").codes
    assert torch.equal(
        pipeline(prompts, temperature=0.0, guidance_scale=3.0, negative_prompt="blue", speculative=5).codes, plain
    )
    seeds = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    together = pipeline(prompts, generator=seeds, speculative=4).codes
    alone = pipeline(prompts[1], generator=torch.Generator().manual_seed(4), speculative=4).codes
    assert torch.equal(together[1:], alone)
    with pytest.raises(UserError, match="no effect with `compile`, `quantize` or `callback`"):
        pipeline(prompts, speculative=4, compile=True)
