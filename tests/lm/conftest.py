"""Small language models over a small vocabulary, a prepared set, a pipeline of untrained models."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from vqlm.data_prep import Collection, PreparedSet, TextConfig, Vocabulary, load_collection, prepare
from vqlm.lm import LanguageModelConfig, SamplingConfig, TextToImagePipeline
from vqlm.lm.model import build_language_model
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.training.folders.whole_files import write_json
from vqlm.vq import VQVAE, VQVAEConfig

NUM_CODES = 16  # the codebook's size; a tiny picture has as many tokens
MAX_CAPTION_TOKENS = 8
ATTRIBUTION = "Drawn by hand for these tests."


@pytest.fixture
def byte_vocabulary() -> Vocabulary:
    """No merges, so that ids can be written by hand: pad 0, bos 1, eos 2, bytes from 3 to 258, boi 259, eoi 260, codes
    from 261 to 276. A character from "!" (33) to "~" has the id of its code point less 30; a space has 223."""
    return Vocabulary.train(["ab"], 259, {"image": NUM_CODES})


@pytest.fixture
def vocabulary() -> Vocabulary:
    """Knows the words of the folder of pictures."""
    return Vocabulary.train(
        ["red square", "green circle", "blue square", "black circle"] * 3, 300, {"image": NUM_CODES}
    )


@pytest.fixture
def tiny_config() -> Callable[..., LanguageModelConfig]:
    """Settings of an architecture, 32 wide, 2 layers of 2 heads. Its weights start large, so that logits are far from
    uniform."""

    def config(architecture: str = "llama", spread: float = 0.3, **changed) -> LanguageModelConfig:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        extra = {"initializer_range": spread}
        return LanguageModelConfig(**({"architecture": architecture, "extra": extra} | sizes | changed))

    return config


@pytest.fixture
def build_tiny(vocabulary, tiny_config) -> Callable[..., PreTrainedModel]:
    """An untrained model in evaluation mode, the same one for the same arguments."""

    def build(architecture: str = "llama", seed: int = 0, **changed) -> PreTrainedModel:
        torch.manual_seed(seed)
        return build_language_model(tiny_config(architecture, **changed), vocabulary, 64).eval()

    return build


@pytest.fixture
def attributed_vqvae(tiny_vqvae: VQVAE) -> VQVAE:
    """`tiny_vqvae` with a licence line."""
    tiny_vqvae.config.attribution = ATTRIBUTION
    return tiny_vqvae


@pytest.fixture
def other_vqvae(tiny_vqvae_config: VQVAEConfig) -> VQVAE:
    """As `tiny_vqvae`, with other weights."""
    torch.manual_seed(1)
    return VQVAE(tiny_vqvae_config).eval()


@pytest.fixture
def pipeline(build_tiny, vocabulary, attributed_vqvae) -> TextToImagePipeline:
    settings = ModelFolderSettings(SamplingConfig(guidance_scale=1.5, min_p=0.05), MAX_CAPTION_TOKENS)
    return TextToImagePipeline(build_tiny(), vocabulary, attributed_vqvae, settings)


@pytest.fixture
def collection(picture_folder: Path) -> Collection:
    return load_collection(str(picture_folder), 16)


@pytest.fixture
def prepared(collection, tiny_vqvae, tmp_path) -> PreparedSet:
    return prepare(collection, tiny_vqvae, tmp_path / "data", "pictures", TextConfig(size=300))


@pytest.fixture
def finished(prepared, tiny_config, tmp_path) -> TextToImagePipeline:
    """A model of the prepared set, as if train_lm had saved it, untrained."""
    model = build_language_model(tiny_config(), prepared.vocabulary, 64)
    settings = ModelFolderSettings(SamplingConfig(guidance_scale=1.25), prepared.manifest["longest_caption_tokens"])
    pipeline = TextToImagePipeline(model, prepared.vocabulary, prepared.load_image_tokenizer(), settings)
    pipeline.save_pretrained(tmp_path / "model")
    write_json(tmp_path / "model" / "run" / "stages.json", {"train_vq": 1.0, "prepare_data": 2.0, "train_lm": 3.0})
    return TextToImagePipeline.from_pretrained(tmp_path / "model", "cpu")
