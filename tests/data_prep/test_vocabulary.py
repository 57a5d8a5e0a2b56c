"""The one vocabulary: where ids lie, round trips, text that spells special tokens, files."""

import re

import pytest
import torch
from transformers import AutoTokenizer

from vqlm.data_prep.settings import TextConfig
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json, write_json

CAPTIONS = ["red heart", "blue heart", "red square"] * 3
SPELLED = ["<image_3>", "<bos>", "</image>", "<image>", "<pad> <eos>", "a<image_3>b", "<image_3><image_4>"]


def test_layout(byte_vocabulary):
    assert (byte_vocabulary.pad, byte_vocabulary.bos, byte_vocabulary.eos) == (0, 1, 2)
    assert byte_vocabulary.text_size == 259
    assert (byte_vocabulary.boi, byte_vocabulary.eoi) == (259, 260)
    assert byte_vocabulary.image.offset == 261
    assert byte_vocabulary.size == 277
    assert len(byte_vocabulary.tokenizer) == 277


def test_bytes_by_hand(byte_vocabulary):
    assert byte_vocabulary.encode_text(["ab", "b a"]) == [[223, 67, 68], [223, 68, 223, 67]]


def test_a_common_word_is_one_token(vocabulary):
    assert len(vocabulary.encode_text(["heart"])[0]) == 1
    assert vocabulary.text_size <= 280


@pytest.mark.parametrize(
    "text",
    [
        "red heart",
        "UPPER and lower",
        "Žluťoučký kůň",
        "日本語 の 絵",
        "مرحبا بالعالم",
        "नमस्ते",
        "👍🏽 and 👨‍👩‍👧 🇳🇴",
        "who ? me , you . don ' t , n't 's",
        *SPELLED,
    ],
)
def test_text_comes_back(vocabulary, text):
    ids = vocabulary.encode_text([text])[0]
    assert vocabulary.decode_text(ids) == text.lower()
    as_written = TextConfig(280, lowercase=False, plain_punctuation=False, drop_article=False)
    exact = Vocabulary.build(CAPTIONS, as_written, {"image": 16})
    assert exact.decode_text(exact.encode_text([text])[0]) == text


@pytest.mark.parametrize("text", SPELLED)
def test_spelled_special_tokens_stay_text(vocabulary, text):
    ids = vocabulary.encode_text([text])[0]
    assert min(ids) > vocabulary.eos
    assert max(ids) < vocabulary.text_size


def test_captions_that_spell_special_tokens_teach_no_such_token():
    vocabulary = Vocabulary.train(SPELLED * 20, 400, {"image": 16})
    for ids in vocabulary.encode_text(SPELLED):
        assert min(ids) > vocabulary.eos
        assert max(ids) < vocabulary.text_size


def test_no_texts_have_no_ids(vocabulary):
    assert vocabulary.encode_text([]) == []


def test_decoded_text_leaves_out_specials_and_codes(vocabulary):
    ids = vocabulary.encode_text(["red heart"])[0]
    mixed = [vocabulary.pad, vocabulary.bos, *ids, vocabulary.boi, vocabulary.image.offset, vocabulary.eos]
    assert vocabulary.decode_text(mixed) == "red heart"


def test_codes_come_back(byte_vocabulary):
    codes = torch.arange(16).view(2, 8)
    ids = byte_vocabulary.codes_to_ids(codes)
    assert ids.tolist() == [list(range(261, 269)), list(range(269, 277))]
    assert torch.equal(byte_vocabulary.ids_to_codes(ids), codes)


def test_small_integers_do_not_overflow(byte_vocabulary):
    assert byte_vocabulary.codes_to_ids(torch.tensor([15], dtype=torch.int8)).tolist() == [276]


@pytest.mark.parametrize("code", [-1, 16])
def test_a_code_out_of_range(byte_vocabulary, code):
    with pytest.raises(UserError, match=rf"image codes must lie in \[0, 16\), found .*{code}"):
        byte_vocabulary.codes_to_ids(torch.tensor([3, code]))


@pytest.mark.parametrize("token", [67, 259, 260, 277])
def test_an_id_that_is_no_code(byte_vocabulary, token):
    with pytest.raises(UserError, match=rf"image ids must lie in \[261, 277\), found .*{token}"):
        byte_vocabulary.ids_to_codes(torch.tensor([264, token]))


def test_save_and_load(vocabulary, tmp_path):
    vocabulary.save_pretrained(tmp_path)
    loaded = Vocabulary.from_pretrained(tmp_path)
    assert loaded.fingerprint() == vocabulary.fingerprint()
    assert loaded.modalities == vocabulary.modalities
    texts = ["red heart", "kůň", *SPELLED]
    assert loaded.encode_text(texts) == vocabulary.encode_text(texts)


def test_a_folder_without_vocabulary(tmp_path):
    with pytest.raises(UserError, match=r"vocabulary\.json is missing"):
        Vocabulary.from_pretrained(tmp_path)


def test_ranges_of_another_tokenizer(vocabulary, tmp_path):
    vocabulary.save_pretrained(tmp_path)
    ranges = read_json(tmp_path / "vocabulary.json")
    ranges["modalities"][0]["size"] = 17
    write_json(tmp_path / "vocabulary.json", ranges)
    with pytest.raises(UserError, match=f"tokenizer has {vocabulary.size} ids, .* describes {vocabulary.size + 1}"):
        Vocabulary.from_pretrained(tmp_path)


def test_the_stock_tokenizer_shows_a_mixed_row(vocabulary, tmp_path):
    codes = vocabulary.codes_to_ids(torch.tensor([3, 0, 15])).tolist()
    caption = vocabulary.encode_text(["red heart"])[0]
    row = [vocabulary.bos, *caption, vocabulary.boi, *codes, vocabulary.eoi, vocabulary.eos]
    vocabulary.save_pretrained(tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    shown = stock.decode(row)
    assert shown == "<bos> red heart<image><image_3><image_0><image_15></image><eos>"
    assert stock(shown, add_special_tokens=False)["input_ids"] == row


def test_the_stock_tokenizer_pads_on_the_left(vocabulary, tmp_path):
    vocabulary.save_pretrained(tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    ids = stock(["red", "red heart"], padding=True)["input_ids"]
    assert ids[0][0] == vocabulary.pad
    assert vocabulary.pad not in ids[1]


@pytest.mark.parametrize("text_size", [0, 258])
def test_too_small_for_the_bytes(text_size):
    with pytest.raises(UserError, match=f"`text.size` must be at least 259 .* found {text_size}"):
        Vocabulary.train(CAPTIONS, text_size, {"image": 16})


def test_two_modalities_have_ranges_of_their_own():
    vocabulary = Vocabulary.train(["ab"], 259, {"image": 16, "audio": 5})
    image, audio = vocabulary.modalities["image"], vocabulary.modalities["audio"]
    assert (image.begin, image.end, image.offset, image.stop) == (259, 260, 261, 277)
    assert (audio.begin, audio.end, audio.offset, audio.stop) == (277, 278, 279, 284)
    assert vocabulary.size == 284
    assert vocabulary.codes_to_ids(torch.tensor([0, 4]), "audio").tolist() == [279, 283]
    with pytest.raises(UserError, match="audio ids"):
        vocabulary.ids_to_codes(torch.tensor([276]), "audio")


def test_the_first_range_is_the_image_tokenizers_whatever_its_name():
    vocabulary = Vocabulary.train(["ab"], 259, {"series": 5, "image": 16})
    assert vocabulary.image.name == "series"
    assert (vocabulary.boi, vocabulary.eoi, vocabulary.image.offset) == (259, 260, 261)
    assert vocabulary.codes_to_ids(torch.tensor([0, 4])).tolist() == [261, 265]
    assert vocabulary.ids_to_codes(torch.tensor([265])).tolist() == [4]
    with pytest.raises(UserError, match="series codes must lie in"):
        vocabulary.codes_to_ids(torch.tensor([5]))
    assert vocabulary.tokenizer.convert_ids_to_tokens([259, 261, 260]) == ["<series>", "<series_0>", "</series>"]


def test_a_modality_can_be_added_only_once(byte_vocabulary):
    with pytest.raises(UserError, match=re.escape("tokens of the modality 'image'")):
        Vocabulary.extend(byte_vocabulary.tokenizer, {"image": 4})


@pytest.mark.parametrize(
    ("captions", "codebook_sizes"),
    [(CAPTIONS, {"image": 17}), (CAPTIONS, {"picture": 16}), (["green heart"] * 9, {"image": 16})],
)
def test_the_fingerprint_names_every_token(vocabulary, captions, codebook_sizes):
    again = Vocabulary.train(CAPTIONS, 280, {"image": 16})
    assert again.fingerprint() == vocabulary.fingerprint()
    other = Vocabulary.train(captions, 280, codebook_sizes)
    assert other.fingerprint() != vocabulary.fingerprint()
