"""Stage two from a pretrained model: its old rows stay, new ones start as asked, and the whole way works."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vqlm.data_prep import SequenceConfig, TextConfig, Vocabulary, prepare
from vqlm.lm import LanguageModelConfig, SamplingConfig, TextToImagePipeline
from vqlm.lm.settings import LMTrainingConfig
from vqlm.lm.train.from_text_model import load_pretrained
from vqlm.lm.train.loop import train_lm
from vqlm.training.errors import UserError

CODES = 16
SPARE = 12


@pytest.fixture
def build(tmp_path):
    """build(tie, spare, context): the folder of a random Llama of 32 channels with a byte-level tokenizer."""

    def make(
        tie: bool = True, spare: int = 0, context: int = 64, name: str = "llama", words: str = "red heart"
    ) -> Path:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        bpe.train_from_iterator(
            [words] * 3, trainers.BpeTrainer(vocab_size=262, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"])
        )
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
        tokenizer.save_pretrained(str(tmp_path / name))
        torch.manual_seed(1)
        config = LlamaConfig(
            vocab_size=len(tokenizer) + spare, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=context, tie_word_embeddings=tie,
            initializer_range=0.3,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(str(tmp_path / name))
        return tmp_path / name

    return make


def vocabulary_of(folder: Path) -> Vocabulary:
    return Vocabulary.build([], TextConfig(pretrained=str(folder)), {"image": CODES})


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("spare", [0, SPARE, 100])  # 100: more than there are new ids
def test_old_rows_stay_and_new_ones_are_their_mean(build, tie, spare):
    folder = build(tie, spare)
    vocabulary = vocabulary_of(folder)
    old = AutoModelForCausalLM.from_pretrained(str(folder))
    model = load_pretrained(str(folder), vocabulary, 40, "mean", torch.randn(CODES, 4))
    assert model.config.vocab_size == vocabulary.size
    known = 262
    for get in ("get_input_embeddings", "get_output_embeddings"):
        before, after = getattr(old, get)().weight, getattr(model, get)().weight
        assert len(after) == vocabulary.size
        assert torch.equal(after[:known], before[:known])
        torch.testing.assert_close(after[known:], before[:known].mean(0).expand(vocabulary.size - known, -1))
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tie
    config = model.config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (
        vocabulary.pad, vocabulary.bos, vocabulary.eos,
    )  # fmt: skip


def test_codes_start_apart_as_the_codebook_has_them(build):
    folder = build(spare=SPARE)
    vocabulary = vocabulary_of(folder)
    codebook = torch.randn(CODES, 4)
    codebook[5] = codebook[3] + 1e-4
    rows = load_pretrained(str(folder), vocabulary, 40, "codebook", codebook).get_input_embeddings().weight
    codes, old = rows[vocabulary.image.offset : vocabulary.image.stop], rows[:262]
    distances = torch.cdist(codes, codes) + 1e9 * torch.eye(CODES)
    assert distances[3].argmin() == 5
    assert distances[3, 5] < 0.01 * distances[3].sort().values[1]
    assert 0.5 < (codes - old.mean(0)).std() / old.std() < 1.5
    torch.testing.assert_close(rows[vocabulary.boi], old.mean(0))


def test_what_the_model_read_before_it_reads_still(build):
    folder = build()
    vocabulary = vocabulary_of(folder)
    ids = torch.tensor(vocabulary.encode_text(["red heart"]))
    old = AutoModelForCausalLM.from_pretrained(str(folder))(ids).logits
    new = load_pretrained(str(folder), vocabulary, 40, "codebook", torch.randn(CODES, 4))(ids).logits
    torch.testing.assert_close(new[..., :262], old)


def test_a_tokenizer_of_another_model(build):
    build(name="other", words="blue square")
    vocabulary = vocabulary_of(build(name="other", words="blue square"))
    folder = build()
    with pytest.raises(
        UserError, match=f"not that of `init_from` .*Prepare the data with `text.pretrained` '?{folder}"
    ):
        load_pretrained(str(folder), vocabulary, 40, "mean", None)


def test_a_context_that_is_too_short(build):
    folder = build(context=32)
    with pytest.raises(UserError, match="Rows have up to 33 ids, the context of `init_from` .* 32"):
        load_pretrained(str(folder), vocabulary_of(folder), 33, "mean", None)


def test_no_model_there(tmp_path, byte_vocabulary):
    with pytest.raises(UserError, match="holds no causal language model with its tokenizer"):
        load_pretrained(str(tmp_path), byte_vocabulary, 33, "mean", None)


def train(prepared, output, folder, model=None, **settings) -> TextToImagePipeline:
    config = LMTrainingConfig(
        init_from=str(folder), max_steps=2, batch_size=4, compile="no", mixed_precision="no", **settings
    )
    return train_lm(
        prepared, output, model or LanguageModelConfig(), config, SequenceConfig(bpe_dropout=0.2), SamplingConfig()
    )


def test_from_a_pretrained_model_to_a_picture(build, collection, tiny_vqvae, tmp_path):
    folder = build(spare=SPARE)
    text = TextConfig(pretrained=str(folder))
    prepared = prepare(collection, tiny_vqvae, tmp_path / "data", "pictures", text, num_workers=0)
    assert prepared.manifest["made_from"]["text"]["pretrained"] == str(folder)
    pipeline = train(prepared, tmp_path / "model", folder)
    assert pipeline.model.config.num_hidden_layers == 2
    assert pipeline("red heart").images[0].size == (16, 16)
    stock = AutoModelForCausalLM.from_pretrained(str(tmp_path / "model"))
    assert stock.config.vocab_size == pipeline.vocabulary.size


def test_sizes_have_no_effect_then(build, prepared, tmp_path):
    with pytest.raises(UserError, match="`model` settings have no effect with `init_from`"):
        train(prepared, tmp_path / "model", build(), LanguageModelConfig(hidden_size=64))
    assert not (tmp_path / "model").exists()
