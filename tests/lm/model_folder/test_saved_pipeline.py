"""The finished model folder: what is in it, who can load it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vqlm.data_prep import Vocabulary
from vqlm.lm import SamplingConfig, TextToImagePipeline
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json, write_json

PROMPTS = ["red square", "a green circle"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels_of(images) -> np.ndarray:
    return np.stack([np.array(image) for image in images])


STOCK_USER = """
import sys
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, expected = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
ours = load_file(expected)
ids = tokenizer("<bos> red square<image>", add_special_tokens=False, return_tensors="pt").input_ids
assert torch.equal(ids, ours["ids"]), ids
with torch.no_grad():
    logits = model(input_ids=ids).logits
assert logits.isfinite().all()
torch.testing.assert_close(logits, ours["logits"])
torch.manual_seed(0)
drawn = model.generate(**tokenizer("<bos> red square<image>", return_tensors="pt"))[0, ids.shape[1] :]
assert len(drawn) == 16, drawn
names = tokenizer.convert_ids_to_tokens(drawn)
assert names[:16] == [f"<image_{int(code) - ours['offset'].item()}>" for code in drawn[:16]], names
assert "vqlm" not in sys.modules
print("stock")
"""


def test_a_saved_pipeline_draws_the_same(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    loaded = TextToImagePipeline.from_pretrained(tmp_path / "model", "cpu")
    assert loaded.sampling == pipeline.sampling
    assert loaded.max_caption_tokens == pipeline.max_caption_tokens
    ours = pipeline(PROMPTS, num_images_per_prompt=3, generator=seeded(4))
    theirs = loaded(PROMPTS, num_images_per_prompt=3, generator=seeded(4))
    assert torch.equal(ours.codes, theirs.codes)
    np.testing.assert_array_equal(pixels_of(ours.images), pixels_of(theirs.images))


@pytest.mark.slow
def test_stock_transformers_loads_the_folder(pipeline, vocabulary, tmp_path):
    folder, expected = tmp_path / "model", tmp_path / "expected.safetensors"
    pipeline.save_pretrained(folder)
    ids = torch.tensor([[vocabulary.bos, *vocabulary.encode_text(["red square"])[0], vocabulary.boi]])
    with torch.no_grad():
        logits = pipeline.model(input_ids=ids).logits
    save_file({"ids": ids, "logits": logits, "offset": torch.tensor(vocabulary.image.offset)}, expected)
    done = subprocess.run(
        [sys.executable, "-c", STOCK_USER, str(folder), str(expected)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "stock"


def test_the_folder_holds_no_pickles_and_a_notice(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "vocabulary.json", "text_to_image.json"} <= names
    assert {"image_tokenizer/model.safetensors", "image_tokenizer/config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"))]
    notice = (tmp_path / "NOTICE").read_text(encoding="utf-8")
    assert notice == pipeline.image_tokenizer.config.attribution + "\n"


def test_settings_of_the_folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    settings = read_json(tmp_path / "text_to_image.json")
    assert settings["max_caption_tokens"] == 8
    assert SamplingConfig(**settings["sampling"]) == pipeline.sampling
    assert settings["image_tokenizer"] == pipeline.image_tokenizer.fingerprint()
    assert settings["vocabulary"] == pipeline.vocabulary.fingerprint()


def test_settings_of_a_later_version(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    content = read_json(tmp_path / "text_to_image.json")
    write_json(tmp_path / "text_to_image.json", content | {"version": 2})
    with pytest.raises(UserError, match=r"text_to_image.json has version 2, .* versions up to 1; install a newer one"):
        TextToImagePipeline.from_pretrained(tmp_path)


def test_settings_of_an_earlier_version(pipeline, tmp_path):
    """The first ones had neither a version nor some of the fields."""
    pipeline.save_pretrained(tmp_path)
    content = read_json(tmp_path / "text_to_image.json")
    early = {name: content[name] for name in ("vocabulary", "image_tokenizer", "sampling", "max_caption_tokens")}
    write_json(tmp_path / "text_to_image.json", early | {"attribution": None})
    loaded = TextToImagePipeline.from_pretrained(tmp_path, "cpu")
    assert loaded.settings == ModelFolderSettings(pipeline.sampling, pipeline.max_caption_tokens)
    assert not loaded.can_caption


def test_the_notice_names_the_pictures_of_both_stages(build_tiny, vocabulary, tiny_vqvae, tmp_path):
    tiny_vqvae.config.attribution = "One."
    pipeline = TextToImagePipeline(build_tiny(), vocabulary, tiny_vqvae, ModelFolderSettings(attribution="Two."))
    pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "NOTICE").read_text(encoding="utf-8") == "Two.\nOne.\n"
    assert TextToImagePipeline.from_pretrained(tmp_path).settings.attribution == "Two."


def test_without_attribution_there_is_no_notice(build_tiny, vocabulary, tiny_vqvae, tmp_path):
    TextToImagePipeline(build_tiny(), vocabulary, tiny_vqvae).save_pretrained(tmp_path)
    assert not (tmp_path / "NOTICE").exists()


def test_another_image_tokenizer(pipeline, other_vqvae, tmp_path):
    pipeline.save_pretrained(tmp_path)
    other_vqvae.save_pretrained(tmp_path / "image_tokenizer")
    with pytest.raises(UserError, match="image_tokenizer in") as caught:
        TextToImagePipeline.from_pretrained(tmp_path)
    for fingerprint in (other_vqvae.fingerprint(), pipeline.image_tokenizer.fingerprint()):
        assert fingerprint in str(caught.value)


def test_another_vocabulary(pipeline, vocabulary, tmp_path):
    pipeline.save_pretrained(tmp_path)
    other = Vocabulary.train(["violet square", "green circus", "blue square", "block circle"] * 3, 300, {"image": 16})
    other.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="vocabulary in") as caught:
        TextToImagePipeline.from_pretrained(tmp_path)
    for fingerprint in (other.fingerprint(), vocabulary.fingerprint()):
        assert fingerprint in str(caught.value)


def test_parts_of_different_sizes(build_tiny, vocabulary, tiny_vqvae):
    model = build_tiny()
    larger = Vocabulary.train(["red square"], 300, {"image": 17})
    with pytest.raises(UserError, match=f"model knows {vocabulary.size} ids, the vocabulary {larger.size}"):
        TextToImagePipeline(model, larger, tiny_vqvae)
    model.config.vocab_size = larger.size
    with pytest.raises(UserError, match="vocabulary has 17 image codes, the image tokenizer 16"):
        TextToImagePipeline(model, larger, tiny_vqvae)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"gone is not a folder; name the folder of a finished model, or OWNER/NAME"):
        TextToImagePipeline.from_pretrained(tmp_path / "gone")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(UserError, match=r"text_to_image\.json is missing"):
        TextToImagePipeline.from_pretrained(tmp_path)


def test_a_folder_whose_weights_are_gone(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model"):
        TextToImagePipeline.from_pretrained(tmp_path)
