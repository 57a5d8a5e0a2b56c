"""PSNR, perplexity and usage by hand."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError

from vqlm.vq.metrics import CodeUsage, psnr, reachable_usage


def test_psnr_by_hand():
    pixel_values = torch.zeros(3, 1, 4, 6)
    reconstruction = pixel_values.clone()
    reconstruction[0] = 0.5  # squared error 0.25 everywhere
    reconstruction[1, :, :, :3] = -1.0  # squared error 1 in one half
    reconstruction[2] = 7.0  # counts as 1, the brightest there is
    wanted = [10 * math.log10(4 / 0.25), 10 * math.log10(4 / 0.5), 10 * math.log10(4)]
    torch.testing.assert_close(psnr(reconstruction, pixel_values), torch.tensor(wanted))


def test_psnr_of_equal_pictures_is_high_and_finite():
    assert psnr(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)).item() == pytest.approx(106.02, abs=0.01)


def test_psnr_of_unlike_shapes_is_refused_by_the_checks_of_this_test_run():
    with pytest.raises(TypeCheckError):
        psnr(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2))


def test_perplexity_by_hand():
    assert CodeUsage(8).perplexity == 0
    assert CodeUsage(8).add(torch.full((2, 3, 5), 6)).perplexity == pytest.approx(1)
    assert CodeUsage(8).add(torch.arange(8).repeat(3)).perplexity == pytest.approx(8)
    # shares 1/2, 1/4, 1/4: entropy 1.5 bit
    assert CodeUsage(8).add(torch.tensor([[0, 0], [3, 7]])).perplexity == pytest.approx(2**1.5)


def test_usage_counts_over_all_that_was_added():
    usage = CodeUsage(8)
    assert usage.usage == 0
    usage.add(torch.tensor([[0, 0, 1]])).add(torch.tensor([1, 7]))
    assert usage.counts.tolist() == [[2, 2, 0, 0, 0, 0, 0, 1]]
    assert usage.usage == 3 / 8
    usage.reset()
    assert usage.usage == 0


def test_several_codebooks_are_counted_apart_and_averaged():
    usage = CodeUsage(4, num_codebooks=2)
    # The first codebook always gives 3; the second, of more codes, 0 and 1 alike.
    usage.add(torch.tensor([3, 3]), torch.tensor([[0, 1], [1, 0]]))
    assert usage.counts.tolist() == [[0, 0, 0, 2], [2, 2, 0, 0]]
    assert usage.perplexity == pytest.approx((1 + 2) / 2)
    assert usage.usage == (1 / 4 + 2 / 4) / 2


@pytest.mark.parametrize("number", [1, 3])
def test_another_number_of_codebooks_is_refused(number):
    with pytest.raises(ValueError, match="shorter|longer"):
        CodeUsage(4, num_codebooks=2).add(*[torch.tensor([0])] * number)


def test_usage_tells_something_from_20_codes_a_code_on():
    usage = CodeUsage(2, num_codebooks=2).add(torch.zeros(40, dtype=torch.int64), torch.zeros(39, dtype=torch.int64))
    assert not usage.is_telling
    assert usage.add(torch.tensor([], dtype=torch.int64), torch.tensor([1])).is_telling


@pytest.mark.parametrize(
    ("counts", "num_pictures", "share"),
    [
        # Of ten codes seven are seen, one in one picture and one in two: 7 + 37/20 - 18 * 18 / (20 * 19).
        ([20, 9, 8, 7, 6, 2, 1, 0, 0, 0], 20, 0.79973684),
        ([20, 9, 8, 0, 0, 0, 0, 0, 0, 0], 20, 0.3),
        ([20, 9, 8, 2, 2, 2, 0, 0, 0, 0], 20, 0.6),  # never below those that are seen
        ([20, 9, 8, 1, 1, 0, 0, 0, 0, 0], 20, 1.0),  # of five codes two are in one picture only: it cannot tell
        ([9, 9, 8, 0, 0, 0, 0, 0, 0, 0], 9, 1.0),  # nor can nine pictures
        ([20, 20, 20, 20, 20, 20, 20, 20, 1, 1], 20, 1.0),
    ],
)
def test_reachable_usage_by_hand(counts, num_pictures, share):
    assert reachable_usage(torch.tensor([counts]), num_pictures) == pytest.approx(share)


def test_reachable_usage_is_the_mean_of_codebooks():
    counts = torch.tensor([[20, 20, 0, 0], [20, 20, 20, 20]])
    assert reachable_usage(counts, 20) == 0.75
