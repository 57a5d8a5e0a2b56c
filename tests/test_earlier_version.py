"""Folders that version 0.1.0 left are continued. The files in earlier_version/ are of its demo (commit 18317cd)."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from vqlm.data_prep import CollectionConfig, PreparedSet, TextConfig, load_collection, prepare
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.lm.settings import SamplingConfig
from vqlm.lm.train.loop import _deciding as deciding_of_lm
from vqlm.scripts import train_lm, train_vq
from vqlm.scripts.settings_options import values_of
from vqlm.training.errors import UserError
from vqlm.training.folders.same_run import BUDGET_SETTINGS, require_same_run
from vqlm.vq import VQVAEConfig
from vqlm.vq.settings import VQTrainingConfig
from vqlm.vq.train import _deciding as deciding_of_vq

FILES = Path(__file__).with_name("earlier_version")
CONFIGS = Path(__file__).parents[1] / "configs" / "demo"


def earlier(name: str) -> dict:
    return json.loads((FILES / f"{name}.json").read_text())


def of_today(settings: dict) -> dict:
    """As `Run` compares them."""
    return {name: value for name, value in settings.items() if name not in BUDGET_SETTINGS}


def test_the_demo_of_stage_one_is_the_same_run():
    settings = train_vq.settings_parser(["--quantizer.type", "vq"]).parse_args(
        ["--config", str(CONFIGS / "train_vq.yaml"), "--data", "openmoji", "--output", "nowhere"]
    )
    config = values_of(VQTrainingConfig, settings)
    # A run of that version cropped, and is continued so: `fitted_as_begun`.
    model_config = VQVAEConfig(network=settings.network, quantizer=settings.quantizer, fit="crop")
    provenance = {"collection": "by times", "collection_form": 2}
    pictures = torch.zeros(3555, 3, 1, 1, dtype=torch.uint8)
    deciding = of_today(deciding_of_vq(model_config, config, pictures, provenance))
    require_same_run(Path("folder"), earlier("train_vq_settings"), deciding, config)
    for name in ("network.num_residual_layers", "quantizer.distance", "loss.discriminator_layers", "beta2"):
        newer = earlier("train_vq_settings")
        del newer[name]  # as a version would have left it that did not have the setting yet
        require_same_run(Path("folder"), newer, deciding, config)
    with pytest.raises(UserError, match=r"its `loss.discriminator_layers` is 3, now 2"):
        require_same_run(
            Path("folder"), earlier("train_vq_settings") | {"loss.discriminator_layers": 3}, deciding, config
        )


def test_the_demo_of_stage_two_is_the_same_run():
    settings = train_lm.settings_parser().parse_args(
        ["--config", str(CONFIGS / "train_lm.yaml"), "--data", "nowhere", "--output", "nowhere"]
    )
    config = values_of(train_lm.LMTrainingConfig, settings)

    prepared = Mock(spec=PreparedSet)  # the set of that version is used as it is
    prepared.manifest = {"vocabulary": "fc0afa5b67a30aff", "made_from": earlier("making")}
    deciding = of_today(deciding_of_lm(prepared, settings.model, config, settings.sequences))
    require_same_run(Path("folder"), earlier("train_lm_settings"), deciding, config)
    newer = earlier("train_lm_settings")
    del newer["sequences.code_noise"], newer["model.num_attention_heads"]
    require_same_run(Path("folder"), newer, deciding, config)


def test_the_model_folder_is_read():
    settings = ModelFolderSettings.from_json(earlier("text_to_image"))
    assert settings.sampling == SamplingConfig(guidance_scale=2.0, temperature=0.25, min_p=0.05)
    assert settings.max_caption_tokens == 19


@pytest.mark.parametrize("content", [{}, {"sampling": [1]}, {"sampling": {"min_p": 0.0, "sharpness": 2}}])
def test_a_model_folder_with_damaged_sampling_is_refused(content):
    with pytest.raises(UserError, match="text_to_image.json: `sampling` must hold guidance_scale, "):
        ModelFolderSettings.from_json(content)


@pytest.fixture
def old_set(picture_folder, tiny_vqvae, tmp_path) -> Path:
    """A prepared set of tiny pictures with the `making.json` of that version: its names, the values of this set."""
    collection = load_collection(str(picture_folder), 16)
    prepare(collection, tiny_vqvae, tmp_path / "data", "pictures", text=text_of_then(), num_workers=0)
    made = earlier("making")
    today = json.loads((tmp_path / "data" / "making.json").read_text())
    made |= {name: today[name] for name in ("image_tokenizer", "encoded_in", "codebook_sizes")}
    made["text"]["size"] = 280
    (tmp_path / "data" / "making.json").write_text(json.dumps(made))
    return tmp_path / "data"


def text_of_then(**changes) -> TextConfig:
    return TextConfig(
        **({"size": 280, "lowercase": False, "plain_punctuation": False, "drop_article": False} | changes)
    )


def resume(folder: Path, picture_folder: Path, tiny_vqvae, text: TextConfig | None, **collection) -> PreparedSet:
    chosen = load_collection(str(picture_folder), 16, CollectionConfig(**collection))
    return prepare(chosen, tiny_vqvae, folder, "pictures", text=text, num_workers=0, resume=True)


def test_a_finished_set_is_opened(old_set, picture_folder, tiny_vqvae):
    assert "plain_punctuation" not in json.loads((old_set / "making.json").read_text())["text"]
    before = PreparedSet.load(old_set).train["codes"][:]
    assert resume(old_set, picture_folder, tiny_vqvae, text_of_then()).train["codes"][:] == before


def test_without_text_settings_those_of_the_set_are_kept(old_set, picture_folder, tiny_vqvae):
    before = PreparedSet.load(old_set).train["caption_tokens"][:]
    assert resume(old_set, picture_folder, tiny_vqvae, None).train["caption_tokens"][:] == before
    (old_set / "manifest.json").unlink()
    finished = resume(old_set, picture_folder, tiny_vqvae, None)
    assert finished.train["caption_tokens"][:] == before
    assert finished.manifest["made_from"]["text"]["plain_punctuation"] is False


def test_a_setting_that_came_later_is_compared_with_what_was_done_before(old_set, picture_folder, tiny_vqvae):
    for name in ("plain_punctuation", "drop_article"):
        with pytest.raises(UserError, match=f"its `text.{name}` is False, now True"):
            resume(old_set, picture_folder, tiny_vqvae, text_of_then(**{name: True}))


def test_an_unfinished_set_is_continued_on_the_same_splits_only(old_set, picture_folder, tiny_vqvae):
    (old_set / "manifest.json").unlink()
    trained = keys_of(old_set, "train")
    with pytest.raises(UserError, match=r"is in its split held_out, now in train; prepare the data in another"):
        resume(old_set, picture_folder, tiny_vqvae, text_of_then(), held_out=trained[0].replace(".png", ".*"))
    assert len(resume(old_set, picture_folder, tiny_vqvae, text_of_then()).train) == len(trained)


def keys_of(folder: Path, split: str) -> list[str]:
    from datasets import Dataset

    return [
        key for file in sorted(folder.glob(f"shards/*/{split}.arrow")) for key in Dataset.from_file(str(file))["key"]
    ]
