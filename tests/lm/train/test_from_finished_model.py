"""Stage two from a finished model: what must agree, what stays, what the new folder inherits."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from vqlm.data_prep import SequenceConfig, TextConfig, load_collection, prepare
from vqlm.lm import LanguageModelConfig, SamplingConfig, TextToImagePipeline
from vqlm.lm.settings import LMTrainingConfig
from vqlm.lm.train.from_finished_model import lengthen_context
from vqlm.lm.train.loop import train_lm
from vqlm.training.errors import UserError
from vqlm.training.run import Run

pytestmark = pytest.mark.slow

ATTRIBUTION = "Drawn by hand for these tests."


@pytest.fixture
def finished(prepared, tiny_config, tmp_path):
    """finished(architecture, **settings): the folder of a model trained on `prepared` for two steps."""

    def make(architecture: str = "llama", sampling=None, sequences=None, **changes):
        settings = {"max_steps": 2, "batch_size": 4, "compile": "no", "mixed_precision": "no"} | changes
        prepared.manifest["attribution"] = ATTRIBUTION
        train_lm(
            prepared, tmp_path / "model", tiny_config(architecture), LMTrainingConfig(**settings),
            sequences or SequenceConfig(), sampling or SamplingConfig(),
        )  # fmt: skip
        return tmp_path / "model"

    return make


@pytest.fixture
def more(picture_folder, tiny_vqvae, tmp_path):
    """more(folder, suffix): the pictures again, prepared for that model, with a suffix to each caption."""

    def make(folder, suffix: str = " in the rain"):
        pipeline = TextToImagePipeline.from_pretrained(folder, "cpu")
        table = picture_folder / "metadata.csv"
        lines = table.read_text().splitlines()
        table.write_text("\n".join([lines[0], *(line + suffix for line in lines[1:])]))
        return prepare(
            load_collection(str(picture_folder), 16), tiny_vqvae, tmp_path / "more", "more", num_workers=0,
            vocabulary=pipeline.vocabulary,
        )  # fmt: skip

    return make


def go_on(prepared, output, folder, sampling=None, model=None, **settings) -> TextToImagePipeline:
    defaults = {"max_steps": 2, "batch_size": 4, "compile": "no", "mixed_precision": "no"}
    config = LMTrainingConfig(init_from=str(folder), **(defaults | settings))
    model = model or LanguageModelConfig()
    return train_lm(prepared, output, model, config, SequenceConfig(), sampling or SamplingConfig())


def test_the_vocabulary_is_the_models_own(finished, more):
    folder = finished()
    prepared = more(folder)
    assert prepared.vocabulary.fingerprint() == TextToImagePipeline.from_pretrained(folder).vocabulary.fingerprint()
    assert not {"text", "codebook_sizes"} & prepared.manifest["made_from"].keys()
    assert prepared.manifest["vocabulary"] == prepared.manifest["made_from"]["vocabulary"]


def test_no_weight_starts_anew(finished, more, tmp_path, capsys):
    folder = finished()
    tiny = {"learning_rate": 1e-12, "weight_decay": 0.0, "max_steps": 1}
    go_on(more(folder), tmp_path / "tuned", folder, **tiny)
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "tuned"))
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9, msg=name)
    assert "before training: held_out_image_nll" in capsys.readouterr().err


def test_training_goes_on_from_it(finished, more, tmp_path):
    folder = finished()
    go_on(more(folder), tmp_path / "tuned", folder)
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "tuned"))
    assert [name for name in before if torch.equal(after[name], before[name])] == []


def test_longer_captions_lengthen_the_context(finished, more, tmp_path):
    folder = finished(max_caption_tokens=8)
    old = TextToImagePipeline.from_pretrained(folder)
    prepared = more(folder, " in the pouring rain of an endless night")
    longest = prepared.manifest["longest_caption_tokens"]
    assert longest > old.max_caption_tokens == 8
    new = go_on(prepared, tmp_path / "tuned", folder, max_caption_tokens=longest)
    assert new.max_caption_tokens == longest
    gained = new.model.config.max_position_embeddings - old.model.config.max_position_embeddings
    assert gained == longest - old.max_caption_tokens


def test_learned_positions_cannot_be_lengthened(finished, more, tmp_path):
    folder = finished("gpt2")
    prepared = more(folder, " in the pouring rain of an endless night")
    old = TextToImagePipeline.from_pretrained(folder)
    over = prepared.manifest["longest_caption_tokens"] - old.max_caption_tokens
    with pytest.raises(UserError, match=f"gpt2 cannot lengthen it; lower `max_caption_tokens` by {over} or more"):
        go_on(prepared, tmp_path / "tuned", folder)
    go_on(prepared, tmp_path / "cut", folder, max_caption_tokens=old.max_caption_tokens)


def test_a_context_that_suffices_stays(finished):
    folder = finished()
    pipeline = TextToImagePipeline.from_pretrained(folder, "cpu")
    model = pipeline.model
    lengthen_context(pipeline, str(folder), model.config.max_position_embeddings)
    assert pipeline.model is model


def test_shorter_captions_shorten_nothing(finished, prepared, tmp_path):
    folder = finished()
    limit = TextToImagePipeline.from_pretrained(folder).max_caption_tokens
    assert go_on(prepared, tmp_path / "tuned", folder, max_caption_tokens=limit - 1).max_caption_tokens == limit


def test_what_is_inherited(finished, more, tmp_path):
    folder = finished(sampling=SamplingConfig(guidance_scale=2.5), sequences=SequenceConfig(captioning=0.5))
    prepared = more(folder)
    prepared.manifest["attribution"] = "Somebody else's."
    tuned = go_on(prepared, tmp_path / "tuned", folder)
    assert tuned.sampling == SamplingConfig(guidance_scale=2.5)
    assert tuned.can_caption
    assert (tmp_path / "tuned" / "NOTICE").read_text() == f"{ATTRIBUTION}\nSomebody else's.\n"
    other = go_on(prepared, tmp_path / "other", folder, SamplingConfig(top_k=3))
    assert other.sampling == SamplingConfig(top_k=3)


def test_another_vocabulary(finished, collection, tiny_vqvae, tmp_path, monkeypatch):
    folder = finished()
    other = prepare(collection, tiny_vqvae, tmp_path / "other", "pictures", TextConfig(size=290), num_workers=0)
    monkeypatch.setattr(Run, "step", lambda *_: pytest.fail("trained for nothing"))
    with pytest.raises(UserError, match=f"The vocabulary of `init_from` .* prepare the data .* `for_model` {folder}"):
        go_on(other, tmp_path / "tuned", folder)
    assert not (tmp_path / "tuned").exists()


def test_another_image_tokenizer(finished, collection, other_vqvae, tmp_path):
    folder = finished()
    vocabulary = TextToImagePipeline.from_pretrained(folder, "cpu").vocabulary
    other = prepare(collection, other_vqvae, tmp_path / "other", "pictures", num_workers=0, vocabulary=vocabulary)
    with pytest.raises(UserError, match="The image tokenizer of `init_from` .* prepare the data .* `for_model`"):
        go_on(other, tmp_path / "tuned", folder)
    assert not (tmp_path / "tuned").exists()


def test_settings_without_effect(finished, prepared, tmp_path):
    folder = finished()
    with pytest.raises(UserError, match="`model` settings have no effect"):
        go_on(prepared, tmp_path / "tuned", folder, model=LanguageModelConfig(hidden_size=64))
    with pytest.raises(UserError, match="`new_rows` has no effect with `init_from`"):
        go_on(prepared, tmp_path / "tuned", folder, new_rows="mean")


def test_a_given_vocabulary_excludes_settings_of_one(collection, tiny_vqvae, vocabulary, tmp_path):
    for settings in ({"text": TextConfig(size=400)}, {"modalities": {"sound": 4}}):
        with pytest.raises(UserError, match="have no effect on the vocabulary of a finished model"):
            prepare(collection, tiny_vqvae, tmp_path / "data", "pictures", vocabulary=vocabulary, **settings)
    tiny_vqvae.config.quantizer.codebook_size = 8
    with pytest.raises(UserError, match="The vocabulary has 16 image codes, the image tokenizer 8"):
        prepare(collection, tiny_vqvae, tmp_path / "data", "pictures", vocabulary=vocabulary)
    assert not (tmp_path / "data").exists()


def test_the_finished_folder_is_stock(finished, more, tmp_path):
    folder = finished()
    tuned = go_on(more(folder), tmp_path / "tuned", folder)
    stock = AutoModelForCausalLM.from_pretrained(str(tmp_path / "tuned"))
    ids = torch.arange(12)[None]
    torch.testing.assert_close(stock(ids).logits, tuned.model(ids).logits)
