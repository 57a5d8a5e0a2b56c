"""Rows that a language model trains on, by hand; what is left out of them and what is disturbed."""

import pytest
import torch

from data_prep.sequences import IGNORED, SequenceConfig, TextToImageCollator, left_pad, prompt_ids
from training.errors import UserError

PAD, BOS, EOS, BOI, EOI, FIRST_CODE = 0, 1, 2, 259, 260, 261
SPACE, A, B = 223, 67, 68
ROWS = [{"caption": "ab", "codes": [0, 5, 15]}, {"caption": "a", "codes": [7, 7, 1]}]


def test_left_pad():
    input_ids, mask, positions = left_pad([[5, 6, 7], [8]], pad=0, length=4)
    assert input_ids.tolist() == [[0, 5, 6, 7], [0, 0, 0, 8]]
    assert mask.tolist() == [[False, True, True, True], [False, False, False, True]]
    assert positions.tolist() == [[0, 0, 1, 2], [0, 0, 0, 0]]
    assert left_pad([[5, 6, 7], [8]], pad=0, length=2)[0].tolist() == [[5, 6, 7], [0, 0, 8]]


def test_prompt_ids(byte_vocabulary):
    prompts = prompt_ids(byte_vocabulary, ["ab", None, "a", ""], max_tokens=2)
    assert prompts == [[BOS, SPACE, A, BOI], [BOS, BOI], [BOS, SPACE, A, BOI], [BOS, BOI]]


def test_batch_by_hand(byte_vocabulary):
    batch = TextToImageCollator(byte_vocabulary, 3, None)(ROWS)
    assert batch.input_ids.tolist() == [
        [BOS, SPACE, A, B, BOI, 261, 266, 276, EOI, EOS],
        [PAD, BOS, SPACE, A, BOI, 268, 268, 262, EOI, EOS],
    ]
    assert batch.labels.tolist() == [
        [BOS, SPACE, A, B, BOI, 261, 266, 276, EOI, EOS],
        [IGNORED, BOS, SPACE, A, BOI, 268, 268, 262, EOI, EOS],
    ]
    assert batch.attention_mask.tolist() == [[True] * 10, [False] + [True] * 9]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]]


def test_captions_have_columns_of_a_fixed_width(byte_vocabulary):
    batch = TextToImageCollator(byte_vocabulary, 5, None)(ROWS[1:])
    assert batch.input_ids.tolist() == [[PAD, PAD, PAD, BOS, SPACE, A, BOI, 268, 268, 262, EOI, EOS]]
    assert batch.position_ids.tolist() == [[0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]]


def test_a_long_caption_is_cut(byte_vocabulary):
    batch = TextToImageCollator(byte_vocabulary, 2, None)(ROWS[:1])
    assert batch.input_ids.tolist() == [[BOS, SPACE, A, BOI, 261, 266, 276, EOI, EOS]]


def test_all_captions_dropped(byte_vocabulary):
    config = SequenceConfig(caption_dropout=1.0, word_dropout=0.0, code_noise=0.0)
    batch = TextToImageCollator(byte_vocabulary, 3, config)(ROWS[:1])
    assert batch.input_ids.tolist() == [[PAD, PAD, PAD, BOS, BOI, 261, 266, 276, EOI, EOS]]
    assert batch.labels.tolist() == [[IGNORED] * 3 + [BOS, BOI, 261, 266, 276, EOI, EOS]]


def test_about_the_share_of_captions_is_dropped(byte_vocabulary):
    config = SequenceConfig(caption_dropout=0.3, word_dropout=0.0, code_noise=0.0)
    batch = TextToImageCollator(byte_vocabulary, 3, config)(ROWS[:1] * 2000)
    dropped = (batch.input_ids[:, 0] == PAD).double().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("share", [0.9, 1.0])
def test_word_dropout_keeps_a_word(byte_vocabulary, share):
    config = SequenceConfig(caption_dropout=0.0, word_dropout=share, code_noise=0.0)
    batch = TextToImageCollator(byte_vocabulary, 4, config)([{"caption": "a b", "codes": [0]}] * 200)
    captions = {tuple(row[row > EOS].tolist()) for row in batch.input_ids[:, :5]}
    both, only_a, only_b = (SPACE, A, SPACE, B), (SPACE, A), (SPACE, B)
    assert captions <= {both, only_a, only_b}
    assert captions == {both} if share == 1 else {only_a, only_b} <= captions


def test_about_the_share_of_words_is_dropped(byte_vocabulary):
    config = SequenceConfig(caption_dropout=0.0, word_dropout=0.25, code_noise=0.0)
    batch = TextToImageCollator(byte_vocabulary, 200, config)([{"caption": " ".join("a" * 100), "codes": [0]}] * 20)
    kept = (batch.input_ids == A).double().sum().item() / 2000
    assert kept == pytest.approx(0.75, abs=0.05)


def test_noise_disturbs_only_input_codes(byte_vocabulary):
    rows = [{"caption": "ab", "codes": [3] * 1000}] * 40
    clean = TextToImageCollator(byte_vocabulary, 4, None)(rows)
    config = SequenceConfig(caption_dropout=0.0, word_dropout=0.0, code_noise=0.5)
    noisy = TextToImageCollator(byte_vocabulary, 4, config)(rows)
    assert torch.equal(noisy.labels, clean.labels)
    assert torch.equal(noisy.position_ids, clean.position_ids)
    assert torch.equal(noisy.attention_mask, clean.attention_mask)
    codes = slice(6, 1006)
    changed = noisy.input_ids != clean.input_ids
    assert not changed[:, :6].any()
    assert not changed[:, 1006:].any()
    assert noisy.input_ids[:, codes].min() >= FIRST_CODE
    assert noisy.input_ids[:, codes].max() < byte_vocabulary.size
    share = changed[:, codes].double().mean(1)  # of each row: up to 0.5, of which one in 16 draws the same code
    assert share.max() < 0.5
    assert share.mean().item() == pytest.approx(0.5 / 2 * 15 / 16, abs=0.08)
    assert share.std() > 0.05


@pytest.mark.parametrize("name", ["caption_dropout", "word_dropout", "code_noise"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_share_outside_its_range(name, value):
    with pytest.raises(UserError, match=rf"{name} must lie in \[0, 1\], found {value}"):
        SequenceConfig(**{name: value})
