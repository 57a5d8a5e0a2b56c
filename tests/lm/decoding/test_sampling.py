"""From logits to a code: candidates, guidance, temperature, the inverse of the cumulative distribution."""

import math

import pytest
import torch

from vqlm.lm.decoding.sampling import candidates, guided_logits, sample
from vqlm.lm.settings import SamplingConfig
from vqlm.training.errors import UserError

PROBABILITIES = [0.15, 0.5, 0.1, 0.25]
INF = math.inf


def log(probabilities: list[float]) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def probabilities_of(logits: torch.Tensor) -> list[float]:
    return logits.softmax(-1)[0].tolist()


# Candidates


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3]),
        ({"min_p": 0.1}, [0, 1, 2, 3]),
        ({"min_p": 0.25}, [0, 1, 3]),
        ({"min_p": 0.4}, [1, 3]),
        ({"min_p": 1.0}, [1]),
        ({"top_k": 1}, [1]),
        ({"top_k": 3}, [0, 1, 3]),
        ({"top_k": 4}, [0, 1, 2, 3]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_p": 0.01}, [1]),
        ({"top_p": 0.4}, [1]),
        ({"top_p": 0.6}, [1, 3]),
        ({"top_p": 0.8}, [0, 1, 3]),
        ({"top_p": 0.95}, [0, 1, 2, 3]),
        ({"top_k": 3, "top_p": 0.6}, [1, 3]),
        ({"top_k": 2, "min_p": 0.25, "top_p": 0.8}, [1, 3]),
    ],
)
def test_candidates_of_four(settings, kept):
    is_candidate = candidates(log(PROBABILITIES), SamplingConfig(**settings))
    assert is_candidate.nonzero()[:, 1].tolist() == kept


def test_each_row_has_its_own_candidates():
    log_probs = torch.cat([log([0.7, 0.2, 0.1]), log([0.1, 0.2, 0.7])])
    is_candidate = candidates(log_probs, SamplingConfig(top_p=0.8))
    assert is_candidate.tolist() == [[True, True, False], [False, True, True]]


def test_candidates_share_all_the_probability():
    guided = guided_logits(log(PROBABILITIES), None, SamplingConfig(top_k=2))
    assert probabilities_of(guided) == pytest.approx([0, 0.5 / 0.75, 0, 0.25 / 0.75])
    assert guided[0, 0].item() == guided[0, 2].item() == -INF


# Guidance


def test_a_scale_of_one_is_the_conditional_distribution_exactly():
    conditional, unconditional = torch.randn(3, 7), torch.randn(3, 7)
    settings = SamplingConfig(guidance_scale=1.0, top_k=5)
    guided = guided_logits(conditional, unconditional, settings)
    assert torch.equal(guided, guided_logits(conditional, None, settings))
    assert not settings.is_guided


def test_guided_distribution_by_hand():
    guided = guided_logits(log([0.5, 0.3, 0.2]), log([0.25, 0.25, 0.5]), SamplingConfig(guidance_scale=2.0))
    unscaled = [0.5**2 / 0.25, 0.3**2 / 0.25, 0.2**2 / 0.5]  # conditional^scale / unconditional^(scale - 1)
    assert probabilities_of(guided) == pytest.approx([value / sum(unscaled) for value in unscaled])


def test_a_scale_of_zero_is_the_unconditional_distribution():
    guided = guided_logits(log([0.5, 0.3, 0.2]), log([0.25, 0.25, 0.5]), SamplingConfig(guidance_scale=0.0))
    assert probabilities_of(guided) == pytest.approx([0.25, 0.25, 0.5])


@pytest.mark.parametrize("scale", [0.0, 0.3, 0.7, 3.0, 30.0])
@pytest.mark.parametrize("top_k", [0, 5])
def test_guidance_is_its_formula(scale, top_k):
    conditional, unconditional = torch.randn(2, 9), torch.randn(2, 9)
    guided = guided_logits(conditional, unconditional, SamplingConfig(guidance_scale=scale, top_k=top_k))
    with_prompt, without = (logits.double().log_softmax(-1) for logits in (conditional, unconditional))
    expected = without + scale * (with_prompt - without)
    if top_k:
        is_kept = with_prompt >= with_prompt.sort(-1, descending=True).values[:, top_k - 1 : top_k]
        expected = expected.masked_fill(~is_kept, -INF)
    torch.testing.assert_close(guided, expected.log_softmax(-1).float(), atol=1e-4, rtol=1e-5)


def test_logits_need_not_be_normalised():
    settings = SamplingConfig(guidance_scale=3.0, min_p=0.1)
    conditional, unconditional = torch.randn(2, 5), torch.randn(2, 5)
    shifted = guided_logits(conditional + 40, unconditional - 7, settings)
    torch.testing.assert_close(shifted, guided_logits(conditional, unconditional, settings), atol=1e-4, rtol=0)


def test_guidance_cannot_lift_a_code_that_is_no_candidate():
    conditional, unconditional = log([0.6, 0.39, 0.01]), log([0.6, 0.3999, 0.0001])
    scale = 3.0
    lifted = guided_logits(conditional, unconditional, SamplingConfig(guidance_scale=scale))
    assert lifted.argmax().item() == 2
    guided = guided_logits(conditional, unconditional, SamplingConfig(guidance_scale=scale, min_p=0.1))
    kept = [0.6, 0.39**3 / 0.3999**2]
    assert probabilities_of(guided) == pytest.approx([kept[0] / sum(kept), kept[1] / sum(kept), 0], rel=1e-4)


# Drawing


@pytest.mark.parametrize(
    ("uniform", "index"), [(0.0, 0), (0.05, 0), (0.15, 1), (0.25, 1), (0.35, 2), (0.59, 2), (0.61, 3), (0.9999999, 3)]
)
def test_inverse_of_the_cumulative_distribution(uniform, index):
    drawn = sample(log([0.1, 0.2, 0.3, 0.4]), torch.tensor([uniform]), 1.0)
    assert drawn.tolist() == [index]


@pytest.mark.parametrize(("uniform", "index"), [(0.0, 1), (0.49, 1), (0.51, 3), (0.9999999, 3)])
def test_an_impossible_code_is_never_drawn(uniform, index):
    logits = torch.tensor([[-INF, 0.0, -INF, 0.0, -INF]])
    assert sample(logits, torch.tensor([uniform]), 1.0).tolist() == [index]


def test_temperature_by_hand():
    logits = log([0.2, 0.8])  # at temperature 1/2: 0.04 to 0.64, which is 1 to 16
    assert sample(logits, torch.tensor([1 / 17 - 0.001]), 0.5).tolist() == [0]
    assert sample(logits, torch.tensor([1 / 17 + 0.001]), 0.5).tolist() == [1]


def test_temperature_zero_takes_the_likeliest():
    logits = torch.cat([log([0.1, 0.2, 0.7]), log([0.5, 0.4, 0.1])])
    assert sample(logits, torch.tensor([0.0, 0.999]), 0.0).tolist() == [2, 0]


def test_a_row_does_not_depend_on_its_neighbours():
    logits, uniform = torch.randn(5, 9), torch.rand(5)
    together = sample(logits, uniform, 0.8)
    alone = [sample(logits[i : i + 1], uniform[i : i + 1], 0.8).item() for i in range(5)]
    assert together.tolist() == alone


def test_frequencies_of_many_draws():
    count = 40_000
    drawn = sample(log(PROBABILITIES).expand(count, -1), torch.rand(count), 1.0)
    frequencies = (torch.bincount(drawn, minlength=4) / count).tolist()
    assert frequencies == pytest.approx(PROBABILITIES, abs=0.01)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("guidance_scale", -0.5),
        ("guidance_scale", 1000.5),
        ("temperature", -0.1),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("guidance_scale", math.nan),
        ("temperature", math.nan),
    ],
)
def test_a_setting_outside_its_range(name, value):
    with pytest.raises(UserError, match=rf"`{name}` must .* found {value}"):
        SamplingConfig(**{name: value})
