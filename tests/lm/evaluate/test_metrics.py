"""Likelihood and retrieval: exact values on small cases."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset

from vqlm.data_prep.sequences import RowCollator
from vqlm.lm.evaluate.metrics import evaluate_nll, recall_at, retrieval_ranks
from vqlm.lm.loss import WeightedCrossEntropy

MAX_CAPTION_TOKENS = 8
NUM_TOKENS = 5


def rows_of(number: int) -> Dataset:
    generator = torch.Generator().manual_seed(7)
    captions = ["red square" if index % 3 else "a green circle" for index in range(number)]
    return Dataset.from_dict(
        {
            # The second caption and the second view are not evaluated.
            "captions": [[caption, "blue"] for caption in captions],
            "codes": torch.randint(16, (number, 2 * NUM_TOKENS), generator=generator).tolist(),
            "key": captions,
        }
    )


def pictures(*values: float) -> torch.Tensor:
    """One-pixel pictures."""
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_a_model_without_preference_knows_as_much_as_a_die(build_tiny, vocabulary):
    model = build_tiny()
    model.get_output_embeddings().weight.data.zero_()
    nll = evaluate_nll(model, vocabulary, rows_of(5), MAX_CAPTION_TOKENS, NUM_TOKENS)
    assert nll == pytest.approx(math.log(16), rel=1e-5)


def test_every_row_counts_alike_in_batches_of_different_sizes(build_tiny, vocabulary):
    model, rows = build_tiny(), rows_of(67)
    objective = WeightedCrossEntropy(model, vocabulary, text_weight=0.0, image_weight=1.0)
    collate = RowCollator(vocabulary, MAX_CAPTION_TOKENS, None)
    read = [{"caption": row["captions"][0], "codes": np.array(row["codes"][:NUM_TOKENS])} for row in rows]
    with torch.no_grad():
        alone = [objective(**vars(collate([[row]]))).image_nll.item() for row in read]
    nll = evaluate_nll(model, vocabulary, rows, MAX_CAPTION_TOKENS, NUM_TOKENS)
    assert nll == pytest.approx(sum(alone) / 67, rel=1e-4)


@pytest.mark.parametrize("is_training", [True, False])
def test_evaluation_leaves_the_mode_as_it_was(build_tiny, vocabulary, is_training):
    model = build_tiny().train(is_training)
    evaluate_nll(model, vocabulary, rows_of(3), MAX_CAPTION_TOKENS, NUM_TOKENS)
    assert model.training == is_training


def test_evaluation_draws_no_random_numbers(build_tiny, vocabulary):
    model, rows = build_tiny(), rows_of(3)
    before = torch.get_rng_state()
    evaluate_nll(model, vocabulary, rows, MAX_CAPTION_TOKENS, NUM_TOKENS)
    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_by_hand():
    gallery = [pictures(0.1, 0.3, -0.2, 0.9, 0.3)]
    drawn, targets = pictures(0.0, 0.25, 1.0), pictures(0.3, 0.3, 0.1)
    # distances: 0.1 0.3 0.2 0.9 0.3 | 0.15 0.05 0.45 0.65 0.05 | 0.9 0.7 1.2 0.1 0.7
    assert retrieval_ranks(drawn, targets, gallery).tolist() == [3, 1, 4]


def test_the_gallery_may_come_in_parts():
    drawn, targets = pictures(0.0, 0.25, 1.0), pictures(0.3, 0.3, 0.1)
    parts = (part for part in (pictures(0.1, 0.3), pictures(-0.2), pictures(0.9, 0.3)))
    assert retrieval_ranks(drawn, targets, parts).tolist() == [3, 1, 4]


def test_pictures_equal_to_the_target_share_its_rank():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, 3, 5, 4, generator=generator)
    drawn = torch.rand(1, 3, 5, 4, generator=generator)
    assert retrieval_ranks(drawn, target, [target.repeat(6, 1, 1, 1)]).tolist() == [1]


def test_a_perfect_drawing_has_the_first_rank():
    collection = torch.rand(20, 3, 5, 4) * 2 - 1
    assert retrieval_ranks(collection[:7], collection[:7], [collection]).tolist() == [1] * 7


def test_recall():
    ranks = torch.tensor([1, 2, 10, 11])
    assert [recall_at(ranks, k) for k in (1, 2, 10, 100)] == [0.25, 0.5, 0.75, 1.0]
