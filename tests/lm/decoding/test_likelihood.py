"""Log-likelihoods of pictures and captions against whole forwards by hand."""

import pytest
import torch

from vqlm.data_prep.sequences import caption_ids, prompt_ids
from vqlm.lm.decoding.captioning import draw_captions
from vqlm.lm.decoding.likelihood import caption_log_likelihoods, code_log_likelihoods, log_likelihoods_of_captions
from vqlm.training.errors import UserError

CAPTIONS = ["red square", "a green circle beside a blue one", "red"]


@pytest.fixture(params=["llama", "gpt2"])
def model(request, build_tiny):
    return build_tiny(request.param)


@pytest.fixture
def codes(vocabulary) -> torch.Tensor:
    return torch.randint(vocabulary.image.size, (3, 5))


def picture_row(vocabulary, codes: torch.Tensor) -> list[int]:
    return [vocabulary.bos, vocabulary.boi, *vocabulary.codes_to_ids(codes).tolist(), vocabulary.eoi]


def next_log_probs(model, row: list[int], legal: slice) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1, legal].float()


def test_pictures_by_hand(model, vocabulary, codes):
    prompts = prompt_ids(vocabulary, caption_ids(vocabulary, CAPTIONS, 20))
    image = slice(vocabulary.image.offset, vocabulary.image.stop)
    likelihoods = code_log_likelihoods(model, vocabulary, prompts, codes)
    for prompt, picture_codes, values in zip(prompts, codes, likelihoods, strict=True):
        row = list(prompt)
        for code, value in zip(picture_codes.tolist(), values, strict=True):
            expected = next_log_probs(model, row, image).log_softmax(-1)[code].item()
            assert value.item() == pytest.approx(expected, abs=1e-3)
            row.append(image.start + code)


def test_captions_by_hand(model, vocabulary, codes):
    ids = vocabulary.encode_text(CAPTIONS)
    assert len({len(caption_ids) for caption_ids in ids}) == 3
    text = slice(0, vocabulary.image.offset)
    for picture in codes:
        likelihoods = log_likelihoods_of_captions(model, vocabulary, picture, ids)
        for caption, value in zip(ids, likelihoods, strict=True):
            row, expected = picture_row(vocabulary, picture), 0.0
            for place, target in enumerate([*caption, vocabulary.eos]):
                logits = next_log_probs(model, row, text)
                if place == 0:
                    logits[vocabulary.eos] = -torch.inf
                expected += logits.log_softmax(-1)[target].item()
                row.append(target)
            assert value.item() == pytest.approx(expected, abs=1e-3)


def test_many_captions_equal_few(build_tiny, vocabulary, codes):
    ids = vocabulary.encode_text(CAPTIONS) * 30
    likelihoods = log_likelihoods_of_captions(build_tiny(), vocabulary, codes[0], ids)
    assert likelihoods.shape == (90,)
    torch.testing.assert_close(likelihoods[:3], likelihoods[87:])


def test_a_caption_each_equals_all_of_one_picture(model, vocabulary, codes, monkeypatch):
    ids = vocabulary.encode_text(CAPTIONS)
    monkeypatch.setattr("vqlm.lm.decoding.likelihood.ROWS_AT_ONCE", 2)
    likelihoods = caption_log_likelihoods(model, vocabulary, codes, ids)
    expected = [
        log_likelihoods_of_captions(model, vocabulary, *pair)[0] for pair in zip(codes, [[i] for i in ids], strict=True)
    ]
    torch.testing.assert_close(likelihoods, torch.stack(expected), atol=1e-3, rtol=0)


def test_another_picture_changes_the_captions_likelihood(build_tiny, vocabulary, codes):
    model, ids = build_tiny(), vocabulary.encode_text(CAPTIONS)
    first, second = (log_likelihoods_of_captions(model, vocabulary, picture_codes, ids) for picture_codes in codes[:2])
    assert (first - second).abs().min() > 1e-3


def test_greedy_captions_by_hand(model, vocabulary, codes):
    drawn = draw_captions(model, vocabulary, codes, 6)
    specials = set(vocabulary.tokenizer.all_special_ids)
    for picture_codes, caption in zip(codes, drawn, strict=True):
        row, likeliest_ids = picture_row(vocabulary, picture_codes), []
        for place in range(7):
            logits = next_log_probs(model, row, slice(0, vocabulary.text_size))
            forbidden = specials - ({vocabulary.eos} if place else set())
            threes = list(zip(likeliest_ids, likeliest_ids[1:], likeliest_ids[2:], strict=False))
            repeating = {third for *two, third in threes if two == likeliest_ids[-2:]}
            last = vocabulary.tokenizer.convert_ids_to_tokens(likeliest_ids[-1:])
            repeating |= {likeliest_ids[-1] for piece in last if len(piece) > 1 and piece[0] != "Ġ"}
            logits[[id for id in forbidden | repeating if id < vocabulary.text_size]] = -torch.inf
            best = logits.argmax().item()
            if best == vocabulary.eos:
                break
            likeliest_ids.append(best)
            row.append(best)
        text = vocabulary.decode_text(likeliest_ids)
        if len(likeliest_ids) > 6:
            text = vocabulary.tokenizer.decode(likeliest_ids).lstrip()
            text = text.rpartition(" ")[0].strip() or vocabulary.decode_text(likeliest_ids[:6])
        assert caption == text


class Planted:
    """A decoder that writes planted ids again and again, and ends where it must not."""

    def __init__(self, ids: list[int], end: int, size: int):
        self.ids, self.end, self.size = ids, end, size

    def read(self, _inputs, _mask, steps: int) -> torch.Tensor:
        self.steps_left, self.place = steps, 0
        return self._logits()

    def step(self, _ids) -> torch.Tensor:
        self.steps_left, self.place = self.steps_left - 1, self.place + 1
        assert self.steps_left >= 0
        return self._logits()

    def _logits(self) -> torch.Tensor:
        logits = torch.zeros(1, self.size)
        logits[0, self.end], logits[0, self.ids[self.place % len(self.ids)]] = 1.0, 2.0
        return logits


@pytest.mark.parametrize(
    ("written", "most", "caption"),
    [
        ("ul", 10, "ulul"),  # "ulu" would come again
        ("red square", 7, "red"),
        ("red square", 4, "red"),
        ("red square", 3, "red"),
        ("redsquare", 3, "red"),
        ("a red square", 5, "a red"),
        ("a red square", 4, "a"),
    ],
)
def test_captions_end(build_tiny, byte_vocabulary, monkeypatch, written, most, caption):
    vocabulary = byte_vocabulary
    ids = [223 if letter == " " else ord(letter) - 30 for letter in written]
    planted = Planted(ids, vocabulary.eos, vocabulary.image.offset)
    monkeypatch.setattr("vqlm.lm.decoding.captioning.build_decoder", lambda *_: planted)
    assert draw_captions(build_tiny(), vocabulary, torch.zeros(1, 5, dtype=torch.int64), most) == [caption]


def test_a_piece_does_not_follow_itself_within_a_word(build_tiny, vocabulary, monkeypatch):
    inner, other, whole = vocabulary.tokenizer.convert_tokens_to_ids(["are", "qu", "Ġred"])
    for ids, expected in (([inner], [inner]), ([inner, other], [inner, other] * 2), ([whole], [whole] * 3)):
        planted = Planted(ids, vocabulary.eos, vocabulary.image.offset)
        monkeypatch.setattr("vqlm.lm.decoding.captioning.build_decoder", lambda *_, planted=planted: planted)
        drawn = draw_captions(build_tiny(), vocabulary, torch.zeros(1, 5, dtype=torch.int64), 9)
        assert drawn == [vocabulary.decode_text(expected)]


def test_captions_of_a_batch_equal_captions_alone(build_tiny, vocabulary, codes):
    model = build_tiny()
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    together = draw_captions(model, vocabulary, codes, 6, 1.0, generators)
    alone = [
        draw_captions(model, vocabulary, codes[seed : seed + 1], 6, 1.0, [torch.Generator().manual_seed(seed)])[0]
        for seed in range(3)
    ]
    assert together == alone


def test_captions_of_a_damaged_model(build_tiny, vocabulary, codes):
    model = build_tiny()
    model.get_output_embeddings().weight.data[5] = float("nan")
    with pytest.raises(UserError, match="not finite at token 0"):
        draw_captions(model, vocabulary, codes, 4)
