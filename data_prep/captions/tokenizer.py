"""The text part of the vocabulary: a BPE trained on the captions, or the tokenizer of a pretrained language model."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vqlm.data_prep.settings import TextConfig
from vqlm.training.errors import UserError

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
# Small letters whose capital is that of other small letters (str.upper): one of the two forms stands for both.
SMALL_LETTERS = {
    "ß": "ss", "ς": "σ", "ı": "i", "ſ": "s", "µ": "μ", "ŉ": "ʼn", "և": "եւ",
    "ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl",
}  # fmt: skip
IOTA_BELOW = "\u0345"
# Soft hyphen, zero-width space, word joiner, byte order mark, marks of direction.
INVISIBLE = "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
# What is left out before and after a text, unless there is nothing else.
BEFORE = " \"'¡¿"
AFTER = " \"'.,;:!?。．，、；：！？।؟"


def build_text_tokenizer(captions: Iterable[str], config: TextConfig) -> PreTrainedTokenizerBase:
    """A stock tokenizer that pads on the left and has three different ids for pad, bos and eos.

    Raises UserError for a size that cannot hold the alphabet, or a pretrained tokenizer that cannot be loaded.
    """
    return load_text_tokenizer(config.pretrained) if config.pretrained else train_text_tokenizer(captions, config)


def train_text_tokenizer(captions: Iterable[str], config: TextConfig) -> PreTrainedTokenizerFast:
    """Train a BPE tokenizer on `captions`."""
    specials = [PAD, BOS, EOS] if config.byte_level else [PAD, BOS, EOS, UNK]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if config.byte_level else []
    if config.size < len(alphabet) + len(specials):
        raise UserError(
            f"`text.size` must be at least {len(alphabet) + len(specials)} (the bytes and {', '.join(specials)}), "
            f"found {config.size}."
        )
    bpe = Tokenizer(models.BPE(unk_token=None if config.byte_level else UNK))
    if steps := normalization_steps(config):
        bpe.normalizer = normalizers.Sequence(steps) if len(steps) > 1 else steps[0]
    if config.byte_level:
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        bpe.decoder = decoders.ByteLevel()
    else:
        bpe.pre_tokenizer = pre_tokenizers.Metaspace()
        bpe.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=config.size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(captions, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=None if config.byte_level else UNK,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def normalization_steps(config: TextConfig) -> list[normalizers.Normalizer]:
    """What becomes of a text before it is split into tokens, in order. They are saved in tokenizer.json, so that the
    stock tokenizer takes the same steps. None of them leaves an empty text, but of characters that are invisible."""
    steps: list[normalizers.Normalizer] = []
    leave_out_before = normalizers.Replace(Regex(rf"\A[{BEFORE}]+(?=[^{BEFORE}{AFTER}])"), "")
    if config.normalization != "none":
        steps.append(normalizers.NFC() if config.normalization == "nfc" else normalizers.NFKC())
    if config.lowercase:
        steps.append(normalizers.Lowercase())
        if config.normalization != "none":  # some capitals are written as a letter and its accents
            steps += [normalizers.NFD(), normalizers.Replace(IOTA_BELOW, "ι"), normalizers.Replace("i\u0307", "i")]
            steps.append(normalizers.NFC())
        steps += [normalizers.Replace(letter, as_others) for letter, as_others in SMALL_LETTERS.items()]
    if config.plain_punctuation:
        steps += [
            normalizers.Replace(Regex(INVISIBLE), ""),
            normalizers.Replace(Regex("[‘’‚‛ʼʻ′`´‹›＇]"), "'"),
            normalizers.Replace(Regex("[“”„‟″«»「」『』＂]"), '"'),
            normalizers.Replace(Regex("[‐‑‒–—―−－]"), "-"),
            normalizers.Replace("…", "..."),
            normalizers.Replace(Regex(r"[\s\x1c-\x1f]+"), " "),
            leave_out_before,
            normalizers.Replace(Regex(rf"(?<=[^{BEFORE}{AFTER}])[{AFTER}]+\z"), ""),
        ]
    if config.drop_article:  # not of "a." or "a - b"
        steps.append(normalizers.Replace(Regex(r"\A\s*(?i:an?|the)\s+(?=[(\[\"' ]*\w)"), ""))
        if config.plain_punctuation:  # what stood behind the article
            steps.append(leave_out_before)
    return steps


def load_text_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a causal language model; pad, bos and eos are added where it lacks them.

    Where one id serves as two of them, as in GPT-2, eos keeps it: a row must not begin with the token that ends one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # the hub, the network and the tokenizers raise many types
        raise UserError(
            f"`text.pretrained` {name!r} holds no tokenizer that can be loaded ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:160]}); name the folder of a causal language model, or one on the hub."
        ) from None
    if tokenizer.eos_token_id is None:
        tokenizer.add_special_tokens({"eos_token": EOS})
    if tokenizer.bos_token_id in (None, tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"bos_token": BOS})
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id, tokenizer.bos_token_id):
        tokenizer.add_special_tokens({"pad_token": PAD})
    tokenizer.padding_side = "left"
    return tokenizer
