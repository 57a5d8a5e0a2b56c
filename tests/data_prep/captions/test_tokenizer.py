"""The text half: BPE options, pretrained tokenizers, BPE dropout, mixed rows."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vqlm.data_prep import RowCollator, SequenceConfig, TextConfig, Vocabulary
from vqlm.data_prep.captions.bpe_dropout import BPEDropout
from vqlm.data_prep.segments import Segment, row_of, segments_of
from vqlm.training.errors import UserError

CAPTIONS = ["red heart", "blue heart", "red square", "blå hjärta", "大きな 心"] * 3
CODES = {"image": 16}


def save_tokenizer(folder: Path, **specials: str) -> PreTrainedTokenizerFast:
    """A small byte-level BPE as GPT-2 and Llama 3 have."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=sorted(set(specials.values())), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(CAPTIONS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **specials)
    tokenizer.save_pretrained(str(folder))
    return tokenizer


# Options of our BPE


def test_lowercase_and_normalisation():
    plain = Vocabulary.build(CAPTIONS, TextConfig(size=300, lowercase=False), CODES)
    small = Vocabulary.build(CAPTIONS, TextConfig(size=300, lowercase=True), CODES)
    assert plain.encode_text(["Red"]) != plain.encode_text(["red"])
    assert small.encode_text(["Red"]) == small.encode_text(["red"])
    wide, narrow = "\uff21", "A"
    nfkc = Vocabulary.build(CAPTIONS, TextConfig(size=300, lowercase=False, normalization="nfkc"), CODES)
    assert nfkc.encode_text([wide]) == nfkc.encode_text([narrow])
    assert plain.encode_text([wide]) != plain.encode_text([narrow])
    composed, decomposed = "\u00e5", "a\u030a"
    none = Vocabulary.build(CAPTIONS, TextConfig(size=300, lowercase=False, normalization="none"), CODES)
    assert plain.encode_text([composed]) == plain.encode_text([decomposed])
    assert none.encode_text([composed]) != none.encode_text([decomposed])


AS_TYPED = [
    "Red Heart", "RED HEART", "red heart.", "a red heart", "The red heart", "  red   heart ", "red\u00a0heart",
    "“red heart”", "„Red heart.“", "A red heart...", "'red heart'", "«red heart»", "red heart!", "Red heart?!",
    "red heart…", "red\theart\n", "\u3000red\u2009heart\u2028", "red\r\nheart", "\ufeffred heart\u200b",
    "an red heart", "`red heart´", "¡Red heart!", "red heart。", "“A red heart.”", "red heart,", "re\u00add heart",
    "The “red heart”.", "an 'Red Heart'", "THE\u00a0«\u00a0RED HEART\u00a0»",
]  # fmt: skip
# Texts that mean the same, the canonical form first.
SAME = [
    ["woman's hat", "Woman’s Hat", "WOMAN`S HAT", "woman′s hat"],
    ["t-shirt", "T‑shirt", "t–shirt", "T—SHIRT", "t−shirt"],
    ["café", "cafe\u0301", "CAFÉ", "CAFE\u0301", "Café."],
    ["straße", "STRASSE", "STRAẞE", "Strasse"],
    ["κόσμος", "ΚΌΣΜΟΣ", "Κόσμος", "κόσμοσ"],
    ["καΐκι", "ΚΑΪ́ΚΙ", "καΐκι".upper(), "και\u0308\u0301κι"],
    ["istanbul", "İSTANBUL", "ISTANBUL", "i\u0307stanbul", "İstanbul"],
    ["kırmızı kalp", "KIRMIZI KALP", "Kırmızı Kalp"],
    ["ﬁre ﬂower", "FIRE FLOWER", "fire flower"],
    ["սև և", "ՍԵՒ ԵՒ", "Սև Եւ"],
    ["красное сердце", "КРАСНОЕ СЕРДЦЕ", "Красное сердце."],
    ["大きな 心", "大きな\u3000心", "大きな 心。", "「大きな 心」"],
    ["u.s. flag", "U.S. Flag", "The U.S. flag."],
    ["red ... heart", "red … heart", "Red … Heart!"],
    ['"red" heart', "A “red” heart.", "a 'RED\" heart", 'red" heart'],
    ["(red) heart", "a (red) heart", "A (RED) HEART."],
]


@pytest.mark.parametrize("byte_level", [True, False])
def test_a_prompt_means_the_same_however_it_is_typed(tmp_path, byte_level):
    text = TextConfig(300, byte_level)
    made = Vocabulary.build(["red heart", "woman's hat", "t-shirt"], text, CODES)
    (expected,) = made.encode_text(["red heart"])
    assert made.decode_text(expected) == "red heart"
    assert dict(zip(AS_TYPED, made.encode_text(AS_TYPED), strict=True)) == dict.fromkeys(AS_TYPED, expected)
    assert made.count_tokens(AS_TYPED) == [len(expected)] * len(AS_TYPED)
    made.save_pretrained(tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    for typed in AS_TYPED:  # between special tokens, as users of transformers write a prompt
        assert stock(f"<bos>{typed}<image>").input_ids == [made.bos, *expected, made.boi]


@pytest.mark.parametrize("texts", SAME, ids=lambda texts: texts[0])
def test_other_scripts_and_punctuation_inside(tmp_path, texts):
    """The stock tokenizer and ours, which agree with each other for every spelling."""
    made = Vocabulary.build([text for same in SAME for text in same[:1]], TextConfig(400), CODES)
    made.save_pretrained(tmp_path)
    stock, (expected,) = AutoTokenizer.from_pretrained(tmp_path), made.encode_text(texts[:1])
    assert dict(zip(texts, made.encode_text(texts), strict=True)) == dict.fromkeys(texts, expected)
    assert {text: stock(text).input_ids for text in texts} == dict.fromkeys(texts, expected)
    assert {text: stock(f"<bos>{text}<image>").input_ids[1:-1] for text in texts} == dict.fromkeys(texts, expected)


def test_texts_that_stay_different():
    made = Vocabulary.build(CAPTIONS, TextConfig(300), CODES)
    for one, other in (("u.s. flag", "us flag"), ("café", "cafe"), ("red, heart", "red heart"), ("t-shirt", "t shirt")):
        assert made.encode_text([one]) != made.encode_text([other])


def test_what_no_normalisation_leaves_out():
    text = TextConfig(300)
    made = Vocabulary.build(CAPTIONS, text, CODES)
    kept = {
        "A": "a",
        "the": "the",
        ".": ".",
        "...": "...",
        "'": "'",
        "an ...": "an",
        "theatre": "theatre",
        "a-b": "a-b",
        "a - b": "a - b",
        "?!": "?!",
        "the ?": "the",
        '"': '"',
    }
    assert [made.decode_text(ids) for ids in made.encode_text(list(kept))] == list(kept.values())
    assert made.encode_text(["STRASSE ΚΌΣΜΟΣ"]) == made.encode_text(["straße κόσμος"])


def test_bpe_over_characters(tmp_path):
    vocabulary = Vocabulary.build(CAPTIONS, TextConfig(size=60, byte_level=False), CODES)
    assert vocabulary.text_size <= 60
    vocabulary.save_pretrained(tmp_path)
    loaded = Vocabulary.from_pretrained(tmp_path)
    for caption in ("red heart", "blå hjärta"):
        assert loaded.decode_text(loaded.encode_text([caption])[0]) == caption
    unknown = loaded.tokenizer.unk_token_id
    assert unknown in loaded.encode_text(["Ω"])[0]
    assert unknown < vocabulary.text_size
    assert loaded.encode_text(["<image_3>"])[0] != [loaded.image.offset + 3]


def test_settings_that_a_pretrained_tokenizer_ignores_are_refused(tmp_path):
    with pytest.raises(UserError, match="`text.lowercase` has no effect on the tokenizer of `text.pretrained` 'x'"):
        TextConfig(pretrained="x", lowercase=False)


# Pretrained tokenizers


@pytest.mark.parametrize(
    "specials",
    [
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<p>"},
        {"bos_token": "<|end|>", "eos_token": "<|end|>"},  # GPT-2
        {"eos_token": "<|end|>", "pad_token": "<|end|>"},  # no bos, as Qwen
        {},
    ],
    ids=["all", "gpt2", "qwen", "none"],
)
def test_what_a_tokenizer_lacks_is_added(tmp_path, specials):
    tokenizer = save_tokenizer(tmp_path / "own", **specials)
    vocabulary = Vocabulary.build([], TextConfig(pretrained=str(tmp_path / "own")), {"image": 16, "series": 4})
    assert len({vocabulary.pad, vocabulary.bos, vocabulary.eos}) == 3
    if "eos_token" in specials:
        assert vocabulary.eos == tokenizer.eos_token_id
    ids = vocabulary.tokenizer.get_vocab()
    assert {token: ids[token] for token in tokenizer.get_vocab()} == tokenizer.get_vocab()
    assert vocabulary.size == vocabulary.text_size + 2 + 16 + 2 + 4
    for caption in ("red heart", "a <image_3> </s>", "blå ♥"):
        assert vocabulary.decode_text(vocabulary.encode_text([caption])[0]) == caption
        assert max(vocabulary.encode_text([caption])[0]) < vocabulary.text_size
        assert vocabulary.count_tokens([caption]) == [len(vocabulary.encode_text([caption])[0])]
    vocabulary.save_pretrained(tmp_path / "made")
    assert Vocabulary.from_pretrained(tmp_path / "made").fingerprint() == vocabulary.fingerprint()
    stock = AutoTokenizer.from_pretrained(str(tmp_path / "made"))
    assert stock.convert_ids_to_tokens(vocabulary.image.offset) == "<image_0>"


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match=f"`text.pretrained` '{tmp_path}' holds no tokenizer that can be loaded"):
        Vocabulary.build([], TextConfig(pretrained=str(tmp_path)), CODES)


@pytest.mark.parametrize(("name", "size"), [("two words", 3), ("series", 0)])
def test_a_modality_that_is_none(name, size):
    with pytest.raises(UserError, match="A modality must be a word and its number of codes"):
        Vocabulary.build(CAPTIONS, TextConfig(size=300), {"image": 16, name: size})


# BPE dropout


TEXTS = [*CAPTIONS, "", " two  spaces", "red-heart, 12 hearts!", "Größe ♥ 心 🙂", "redhearted squares"]


@pytest.mark.parametrize("is_pretrained", [False, True])
def test_without_dropout_the_tokens_are_the_tokenizers(tmp_path, is_pretrained):
    save_tokenizer(tmp_path, eos_token="</s>")
    text = TextConfig(pretrained=str(tmp_path)) if is_pretrained else TextConfig(size=300)
    vocabulary = Vocabulary.build(CAPTIONS, text, CODES)
    assert BPEDropout(vocabulary, 0.0).encode_text(TEXTS) == vocabulary.encode_text(TEXTS)


def test_with_all_dropped_a_caption_is_bytes(vocabulary):
    ids = BPEDropout(vocabulary, 1.0).encode_text(["red heart"])[0]
    assert len(ids) == len(" red heart")
    assert vocabulary.decode_text(ids) == "red heart"


def test_dropout_draws_from_torch_and_reads_the_same_text(vocabulary):
    dropout, read = BPEDropout(vocabulary, 0.5), set()
    for seed in range(20):
        torch.manual_seed(seed)
        ids = dropout.encode_text(["red heart"])[0]
        torch.manual_seed(seed)
        assert dropout.encode_text(["red heart"])[0] == ids
        assert vocabulary.decode_text(ids) == "red heart"
        read.add(tuple(ids))
    assert len(read) > 3


def test_a_tokenizer_without_merges():
    words = Tokenizer(models.WordLevel({"red": 0, "<p>": 1, "<s>": 2, "</s>": 3}, unk_token="red"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<p>", bos_token="<s>", eos_token="</s>")
    with pytest.raises(UserError, match="needs a BPE tokenizer, found WordLevel"):
        BPEDropout(Vocabulary.extend(tokenizer, CODES), 0.1)


def test_a_batch_is_drawn_with_dropout(vocabulary):
    rows = [[{"caption": "red heart", "codes": list(range(16))}]]
    plain = RowCollator(vocabulary, 20, None)(rows).input_ids
    config = SequenceConfig(caption_dropout=0.0, code_noise=0.0, bpe_dropout=1.0)
    dropped = RowCollator(vocabulary, 20, config)(rows).input_ids
    assert dropped.shape[1] == plain.shape[1] + len(" red heart") - len(vocabulary.encode_text(["red heart"])[0])


# Mixed rows


@pytest.fixture
def mixed() -> Vocabulary:
    """As `byte_vocabulary`, and then <series> 277, </series> 278, codes 279 to 282."""
    return Vocabulary.train(["ab"], 259, {"image": 16, "series": 4})


def test_a_row_of_three_modalities_by_hand(mixed):
    segments = [
        Segment("text", "a"), Segment("image", torch.tensor([0, 15])), Segment("text", "b"),
        Segment("series", torch.tensor([3, 0, 0])), Segment("image", torch.tensor([1])),
    ]  # fmt: skip
    space, a, b = 223, 67, 68
    row = [1, space, a, 259, 261, 276, 260, space, b, 277, 282, 279, 279, 278, 259, 262, 260, 2]
    assert row_of(mixed, segments) == row
    read = segments_of(mixed, row)
    assert [segment.modality for segment in read] == ["text", "image", "text", "series", "image"]
    assert [part.content if isinstance(part.content, str) else part.content.tolist() for part in read] == [
        "a", [0, 15], "b", [3, 0, 0], [1],
    ]  # fmt: skip
    assert segments_of(mixed, row_of(mixed, [])) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], r"begins with 1 \(bos\)"),
        ([1, 67], r"ends with 2 \(eos\)"),
        ([1, 259, 261, 67, 2], "Position 3 .* must hold a code of image or its end token 260, found the id 67"),
        ([1, 259, 261, 2], "Position 3 .* must hold a code of image .* found the id 2"),
        ([1, 259, 279, 260, 2], "Position 2 .* found the id 279"),
        ([1, 67, 261, 2], "Position 2 .* must hold text or the begin token .* found the id 261"),
    ],
)
def test_a_row_that_is_none(mixed, row, message):
    with pytest.raises(UserError, match=message):
        segments_of(mixed, row)


def test_a_modality_that_the_vocabulary_lacks(byte_vocabulary):
    with pytest.raises(UserError, match="no modality 'series', only image; .* `modalities`"):
        row_of(byte_vocabulary, [Segment("series", torch.tensor([0]))])
    with pytest.raises(UserError, match=r"image codes must lie in \[0, 16\), found 16 to 16"):
        row_of(byte_vocabulary, [Segment("image", torch.tensor([16]))])
