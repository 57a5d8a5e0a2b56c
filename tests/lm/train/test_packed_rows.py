"""Rows of one pack share a forward and nothing else: proofs for logits, gradients and the loss."""

import numpy as np
import pytest
import torch

from vqlm.data_prep.sequences import PackShape, RowCollator
from vqlm.lm.loss import WeightedCrossEntropy
from vqlm.lm.probes import supports_packing

ARCHITECTURES = ["llama", "gpt2", "qwen3"]
CAPTIONS = ["red square", None, "a green circle"]


@pytest.fixture(params=["eager", "sdpa"])
def build(request, build_tiny):
    def with_attention(architecture):
        model = build_tiny(architecture)
        model.set_attn_implementation(request.param)
        return model

    return with_attention


def rows_with(codes: list[list[int]], captions=CAPTIONS) -> list[dict]:
    return [
        {"caption": caption, "codes": np.array(row_codes)} for caption, row_codes in zip(captions, codes, strict=True)
    ]


ROWS = rows_with([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9]])


@pytest.fixture
def collate(vocabulary):
    return RowCollator(vocabulary, 8, None)


def row_numbers(batch) -> torch.Tensor:
    """(P, T): which row of its pack each place belongs to."""
    return (batch.position_ids == 0).cumsum(1) - 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_no_row_of_a_pack_changes_the_logits_of_another(build, vocabulary, collate, architecture, changed):
    model, batch = build(architecture), collate([ROWS, ROWS[::-1]])
    owner = row_numbers(batch)
    other_ids = batch.input_ids.clone()
    is_changed = owner == changed
    other_ids[is_changed] = torch.randint(3, vocabulary.size, (int(is_changed.sum()),))
    inputs = {"position_ids": batch.position_ids, "use_cache": False}
    before, after = (model(input_ids=ids, **inputs).logits for ids in (batch.input_ids, other_ids))
    assert torch.equal(before[~is_changed], after[~is_changed])
    assert not torch.allclose(before[is_changed], after[is_changed], atol=0.1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("asked", [0, 1, 2])
def test_no_gradient_reaches_another_row_of_the_pack(build, collate, architecture, asked):
    model, batch = build(architecture), collate([ROWS, ROWS[::-1]])
    embedded = model.get_input_embeddings()(batch.input_ids).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, position_ids=batch.position_ids, use_cache=False).logits
    is_asked = row_numbers(batch) == asked
    logits[is_asked].square().sum().backward()
    assert embedded.grad[~is_asked].abs().max() == 0
    assert embedded.grad[is_asked].abs().amax(-1).min() > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_of_packed_rows_is_that_of_each_alone(build, vocabulary, collate, architecture):
    objective = WeightedCrossEntropy(build(architecture), vocabulary, text_weight=0.3, image_weight=1.0)
    packed = objective(**vars(collate([ROWS, ROWS[1:]])))
    rows = [*ROWS, *ROWS[1:]]
    alone = [objective(**vars(collate([[row]]))) for row in rows]
    texts = torch.tensor([len(collate([[row]]).text_targets) for row in rows])
    image_nll = torch.stack([losses.image_nll for losses in alone])
    text_nll = torch.stack([losses.text_nll for losses in alone]) * texts
    torch.testing.assert_close(packed.image_nll, image_nll.mean())
    torch.testing.assert_close(packed.text_nll, text_nll.sum() / texts.sum())
    expected = (5 * image_nll.sum() + 0.3 * text_nll.sum()) / (25 + 0.3 * texts.sum())
    torch.testing.assert_close(packed.loss, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_future_of_a_row_cannot_change_its_past(build, vocabulary, collate, architecture):
    model, batch = build(architecture), collate([ROWS])
    last = int((row_numbers(batch) == 1).nonzero()[-1, 1])  # of the row in the middle
    other_ids = batch.input_ids.clone()
    other_ids[0, last] = vocabulary.image.offset
    inputs = {"position_ids": batch.position_ids, "use_cache": False}
    before, after = (model(input_ids=ids, **inputs).logits for ids in (batch.input_ids, other_ids))
    is_same = (before == after).all(-1)
    assert is_same[0].tolist() == [place != last for place in range(is_same.shape[1])]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_learned_positions_suffice_for_a_pack_that_is_nearly_empty(vocabulary, build_tiny, collate, architecture):
    """A row of the longest length in a pack four times as long: `max_position_embeddings` is that of one row."""
    model = build_tiny(architecture)
    longest = model.config.max_position_embeddings
    shape = PackShape(4 * longest, packs=1, max_rows=12, longest_caption=8, row_overhead=8, tokens_per_image=5)
    objective = WeightedCrossEntropy(model, vocabulary, text_weight=0.3, image_weight=1.0)
    tight, wide = (objective(**vars(collate([ROWS], shape))) for shape in (None, shape))
    torch.testing.assert_close(wide.loss, tight.loss)


# What does mix them


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_these_keep_packed_rows_apart(build_tiny, architecture, spread):
    assert supports_packing(build_tiny(architecture, spread=spread))


@pytest.mark.parametrize("architecture", ["mamba", "biogpt"])
@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_these_mix_packed_rows(build_tiny, architecture, spread):
    """Mamba carries a state from row to row; BioGPT makes an attention mask of its own where it is given none."""
    model = build_tiny(architecture, spread=spread).train()
    assert not supports_packing(model)
    assert model.training
