"""Rows that a language model trains on, by hand; what is left out of them and what is disturbed."""

import numpy as np
import pytest
import torch

from vqlm.data_prep.sequences import IGNORED, ROW_OVERHEAD, PackShape, RowCollator, caption_ids, left_pad, prompt_ids
from vqlm.data_prep.settings import SequenceConfig
from vqlm.training.errors import UserError

PAD, BOS, EOS, BOI, EOI, FIRST_CODE = 0, 1, 2, 259, 260, 261
SPACE, A, B = 223, 67, 68


def row(caption: str | None, codes: list[int]) -> dict:
    return {"caption": caption, "codes": np.array(codes, dtype=np.uint16)}


ROWS = [row("ab", [0, 5, 15]), row("a", [7, 7, 1])]
# In bytes: " ab" and " a", with bos, boi and eoi, and three codes.
SHAPE = PackShape(
    pack_length=20, packs=2, max_rows=3, longest_caption=3, row_overhead=ROW_OVERHEAD + 3, tokens_per_image=3
)


def collator(vocabulary, max_caption_tokens=8, **settings) -> RowCollator:
    clean = {"caption_dropout": 0.0, "word_dropout": 0.0, "code_noise": 0.0}
    return RowCollator(vocabulary, max_caption_tokens, SequenceConfig(**(clean | settings)))


def captions_in(batch) -> list[tuple[int, ...]]:
    """The caption of each row: what is predicted between bos and boi."""
    captions, last = [], []
    for target in batch.text_targets.tolist():
        if target == BOI:
            captions.append(tuple(last))
        last = [] if target in (BOI, EOI, EOS) else [*last, target]
    return captions


def test_left_pad():
    input_ids, mask, positions = left_pad([[5, 6, 7], [8]], pad=0)
    assert input_ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]
    assert positions.tolist() == [[0, 1, 2], [0, 0, 0]]


def test_prompt_ids(byte_vocabulary):
    prompts = prompt_ids(byte_vocabulary, caption_ids(byte_vocabulary, ["ab", None, "a", ""], max_tokens=2))
    assert prompts == [[BOS, SPACE, A, BOI], [BOS, BOI], [BOS, SPACE, A, BOI], [BOS, BOI]]


def test_a_pack_by_hand(byte_vocabulary):
    batch = RowCollator(byte_vocabulary, 3, None)([ROWS, [row(None, [2, 3, 4])]])
    first = [BOS, SPACE, A, B, BOI, 261, 266, 276, EOI]
    second = [BOS, SPACE, A, BOI, 268, 268, 262, EOI]
    third = [BOS, BOI, 263, 264, 265, EOI]
    assert batch.input_ids.tolist() == [first + second, third + [PAD] * 11]
    assert batch.position_ids.tolist() == [[*range(9), *range(8)], [*range(6), *[0] * 11]]
    assert batch.code_places.tolist() == [4, 5, 6, 12, 13, 14, 18, 19, 20]
    assert batch.code_targets.tolist() == [0, 5, 15, 7, 7, 1, 2, 3, 4]
    assert batch.text_places.tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 11, 15, 16, 17, 21, 22]
    assert batch.text_targets.tolist() == [SPACE, A, B, BOI, EOI, EOS, SPACE, A, BOI, EOI, EOS, BOI, EOI, EOS]
    assert batch.num_tokens == 9 + 8 + 6


def test_a_static_shape_only_adds_padding(byte_vocabulary):
    packs = [ROWS, [row(None, [2, 3, 4])]]
    tight = RowCollator(byte_vocabulary, 3, None)(packs)
    batch = RowCollator(byte_vocabulary, 3, None)(packs, SHAPE)
    assert batch.input_ids.shape == batch.position_ids.shape == (2, 20)
    assert torch.equal(batch.input_ids[:, :17], tight.input_ids)
    assert batch.input_ids[:, 17:].eq(PAD).all()
    assert batch.position_ids[:, 17:].eq(0).all()
    assert len(batch.code_places) == len(batch.code_targets) == SHAPE.code_places
    assert len(batch.text_places) == len(batch.text_targets) == SHAPE.text_places
    for kind in ("code", "text"):
        places, targets = (getattr(batch, f"{kind}_{name}") for name in ("places", "targets"))
        is_real = targets != IGNORED
        column = getattr(tight, f"{kind}_places")
        assert torch.equal(places[is_real], column // 17 * 20 + column % 17)
        assert torch.equal(targets[is_real], getattr(tight, f"{kind}_targets"))
    assert batch.num_tokens == tight.num_tokens


def test_every_prediction_is_of_the_next_id_of_its_row(byte_vocabulary):
    batch = RowCollator(byte_vocabulary, 3, None)([[*ROWS, *ROWS], ROWS], None)
    ids, positions = batch.input_ids.flatten(), batch.position_ids.flatten()
    predicted = dict(zip(batch.code_places.tolist(), (batch.code_targets + FIRST_CODE).tolist(), strict=True))
    predicted |= dict(zip(batch.text_places.tolist(), batch.text_targets.tolist(), strict=True))
    assert sorted(predicted) == [place for place in range(len(ids)) if ids[place] != PAD]
    for place, target in predicted.items():
        is_last = place + 1 == len(ids) or positions[place + 1] == 0
        assert target == (EOS if is_last else ids[place + 1])


def test_a_pack_without_rows_is_padding(byte_vocabulary):
    batch = RowCollator(byte_vocabulary, 3, None)([ROWS, []])
    assert batch.input_ids[1].eq(PAD).all()
    assert batch.code_places.max() < 17
    assert batch.text_places.max() < 17


def test_a_long_caption_is_cut(byte_vocabulary):
    batch = RowCollator(byte_vocabulary, 2, None)([ROWS[:1]])
    assert batch.input_ids.tolist() == [[BOS, SPACE, A, BOI, 261, 266, 276, EOI]]


def test_rows_without_a_caption(byte_vocabulary):
    batch = collator(byte_vocabulary)([[row | {"caption": None} for row in ROWS]])
    assert batch.input_ids.tolist() == [[BOS, BOI, 261, 266, 276, EOI, BOS, BOI, 268, 268, 262, EOI]]
    assert captions_in(batch) == [(), ()]


@pytest.mark.parametrize("share", [0.9, 1.0])
def test_word_dropout_keeps_a_word(byte_vocabulary, share):
    batch = collator(byte_vocabulary, word_dropout=share)([[row("b a", [0])]] * 200)
    both, only_a, only_b = (SPACE, B, SPACE, A), (SPACE, A), (SPACE, B)
    captions = set(captions_in(batch))
    assert captions <= {both, only_a, only_b}
    assert captions == {both} if share == 1 else {only_a, only_b} <= captions


def test_about_the_share_of_words_is_dropped(byte_vocabulary):
    batch = collator(byte_vocabulary, 200, word_dropout=0.25)([[row(" ".join("a" * 100), [0])]] * 20)
    assert (batch.input_ids == A).double().sum().item() / 2000 == pytest.approx(0.75, abs=0.05)


def test_noise_disturbs_only_input_codes(byte_vocabulary):
    packs = [[row("ab", [3] * 1000)]] * 40
    clean, noisy = collator(byte_vocabulary)(packs), collator(byte_vocabulary, code_noise=0.5)(packs)
    for name in ("position_ids", "code_places", "code_targets", "text_places", "text_targets"):
        assert torch.equal(getattr(noisy, name), getattr(clean, name))
    codes = slice(5, 1005)
    changed = noisy.input_ids != clean.input_ids
    assert not changed[:, :5].any()
    assert not changed[:, 1005:].any()
    assert noisy.input_ids[:, codes].min() >= FIRST_CODE
    assert noisy.input_ids[:, codes].max() < byte_vocabulary.size
    share = changed[:, codes].double().mean(1)  # of each row: up to 0.5, of which one in 16 draws the same code
    assert share.max() < 0.5
    assert share.mean().item() == pytest.approx(0.5 / 2 * 15 / 16, abs=0.08)
    assert share.std() > 0.05


@pytest.mark.parametrize("name", ["caption_dropout", "captioning", "interleaved", "word_dropout", "code_noise"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_share_outside_its_range(name, value):
    with pytest.raises(UserError, match=rf"`{name}` must lie in \[0, 1\], found {value}"):
        SequenceConfig(**{name: value})


def test_image_to_text_by_hand(byte_vocabulary):
    batch = collator(byte_vocabulary, captioning=1.0)([[*ROWS, row(None, [2, 3, 4])]])
    first = [BOS, BOI, 261, 266, 276, EOI, SPACE, A, B]
    second = [BOS, BOI, 268, 268, 262, EOI, SPACE, A]
    third = [BOS, BOI, 263, 264, 265, EOI]
    assert batch.input_ids.tolist() == [first + second + third]
    assert batch.position_ids.tolist() == [[*range(9), *range(8), *range(6)]]
    assert batch.code_places.tolist() == [1, 2, 3, 10, 11, 12, 18, 19, 20]
    assert batch.code_targets.tolist() == [0, 5, 15, 7, 7, 1, 2, 3, 4]
    assert batch.text_places.tolist() == [0, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 21, 22]
    assert batch.text_targets.tolist() == [BOI, EOI, SPACE, A, B, EOS, BOI, EOI, SPACE, A, EOS, BOI, EOI, EOS]
    described = [0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0]
    assert batch.is_described.tolist() == [bool(number) for number in described]


def test_a_document_by_hand(byte_vocabulary):
    batch = collator(byte_vocabulary, interleaved=1.0)([ROWS])
    ids = [BOS, SPACE, A, B, BOI, 261, 266, 276, EOI, SPACE, A, BOI, 268, 268, 262, EOI]
    assert batch.input_ids.tolist() == [ids]
    assert batch.position_ids.tolist() == [[*range(16)]]
    assert batch.code_places.tolist() == [4, 5, 6, 11, 12, 13]
    assert batch.text_targets.tolist() == [SPACE, A, B, BOI, EOI, SPACE, A, BOI, EOI, EOS]
    assert batch.text_places.tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 14, 15]


def test_a_described_picture_ends_in_a_document_too(byte_vocabulary):
    batch = collator(byte_vocabulary, captioning=1.0, interleaved=1.0)([[*ROWS, row(None, [2, 3, 4]), ROWS[1]]])
    ids = [BOS, BOI, 261, 266, 276, EOI, SPACE, A, B, BOI, 268, 268, 262, EOI, SPACE, A]
    ids += [BOI, 263, 264, 265, EOI, BOI, 268, 268, 262, EOI, SPACE, A]
    assert batch.input_ids.tolist() == [ids]
    first, second, third = [BOI, EOI, SPACE, A, B, EOS], [EOI, SPACE, A, EOS], [EOI, BOI]
    assert batch.text_targets.tolist() == first + second + third + second
    described = [0, 0, 1, 1, 1, 1] + [0, 1, 1, 1] + [0, 0] + [0, 1, 1, 1]
    assert batch.is_described.tolist() == [bool(number) for number in described]


@pytest.mark.parametrize("name", ["captioning", "interleaved"])
def test_directions_come_in_about_their_shares(byte_vocabulary, name):
    packs = [ROWS] * 1000
    batch = collator(byte_vocabulary, **{name: 0.3})(packs)
    plain = collator(byte_vocabulary)(packs).input_ids[0]
    changed = (batch.input_ids[:, :9] != plain[:9]).any(1) if name == "captioning" else batch.position_ids[:, 9] != 0
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.05)


def test_directions_fit_into_the_shape_of_a_run(byte_vocabulary):
    packs = [[ROWS[0], ROWS[0]], [ROWS[1], row(None, [1, 2, 3])]]
    for share in (0.0, 0.5, 1.0):
        batch = collator(byte_vocabulary, 3, captioning=share, interleaved=share)(packs, SHAPE)
        assert batch.input_ids.shape == (2, 20)
        assert len(batch.text_places) == SHAPE.text_places
