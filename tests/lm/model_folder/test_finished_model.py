"""What lies in a model folder beside the weights: its card, its figures; the hub that it goes to and comes from."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import vqlm.lm.model_folder.finished_model
import vqlm.lm.model_folder.names
import vqlm.lm.model_folder.tokenizers
from vqlm.lm import TextToImagePipeline, TextToImageProcessor
from vqlm.lm.model_folder.card import data_name, license_of
from vqlm.lm.model_folder.finished_model import record_figures, weights_checksum
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json

FIGURES = {
    "held_out_psnr_db": 24.784,
    "held_out_image_nll": {"held_out": 1.2345},
    "retrieval": {"held_out": {"1": {"r1": 0.25, "r10": 0.5}, "1.5": {"r1": 0.375, "r10": 0.75}}},
    "default_sampling": {"guidance_scale": 1.5},
}
TRAINED_ON = {"data": "/home/anna/secret/pictures", "pictures": {"train": 3555, "held_out": 210}}


@pytest.fixture
def described(pipeline) -> TextToImagePipeline:
    attribution = "Emoji by Anna, CC BY-SA 4.0."
    pipeline.settings = replace(
        pipeline.settings, trained_on=TRAINED_ON, attribution=attribution, max_caption_tokens=16
    )
    pipeline.image_tokenizer.config.attribution = attribution
    return pipeline


@pytest.fixture
def folder(described, tmp_path) -> Path:
    described.save_pretrained(tmp_path / "emoji")
    return tmp_path / "emoji"


# The card


def test_the_card_says_what_the_folder_knows(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict() == {
        "license": "cc-by-sa-4.0",
        "library_name": "vqlm",
        "pipeline_tag": "text-to-image",
        "tags": ["transformers", "safetensors", "vq-vae", "autoregressive", "llama"],
    }
    for said in (
        "# emoji", "pictures of 16x16 into 16 codes of 16",
        "pictures: 3,555 pictures trained on, 210 held out (held_out).",
        "Emoji by Anna, CC BY-SA 4.0.", 'TextToImagePipeline.from_pretrained("emoji")', 'pipeline("text-to-image"',
        'AutoProcessor.from_pretrained("emoji")', 'AutoModelForCausalLM.from_pretrained("emoji")',
    ):  # fmt: skip
        assert said in card.text, said
    assert "Figures" not in card.text
    assert "secret" not in card.content


def test_the_code_of_the_card_runs(folder, monkeypatch):
    """Beside the folder, its name loads it."""
    monkeypatch.chdir(folder.parent)
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names := {})
    assert names["ids"].shape[0] == 1


def test_the_card_says_what_to_install(folder):
    """A path stands for the checkout or the wheel, since the package index has no vqlm."""
    commands = re.findall(r"pip install ([^\n`]*)", (folder / "README.md").read_text())
    assert commands == ["/path/to/vqlm", "torch transformers"]


def test_a_card_that_knows_nothing_claims_nothing(pipeline, tmp_path):
    pipeline.image_tokenizer.config.attribution = None
    pipeline.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "license" not in card.data.to_dict()
    assert "What it was trained on is not recorded." in card.text
    assert "No licence of the pictures is recorded" in card.text


def test_the_figures_come_into_the_card_and_stay_with_their_weights(folder, tmp_path):
    record_figures(folder, FIGURES)
    assert read_json(folder / "evaluation.json") == {"weights": weights_checksum(folder)} | FIGURES
    card = ModelCard.load(folder / "README.md")
    assert "| held_out | 1.234 | 37.5% | 75.0% |" in card.text
    results = {(result.dataset_split, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert results == {
        ("held_out", "psnr"): 24.78, ("held_out", "nll"): 1.234,
        ("held_out", "recall@1"): 0.375, ("held_out", "recall@10"): 0.75,
    }  # fmt: skip

    loaded = TextToImagePipeline.from_pretrained(folder, "cpu")
    assert (loaded.settings.trained_on, loaded.figures["held_out_psnr_db"]) == (TRAINED_ON, 24.784)
    loaded.save_pretrained(tmp_path / "copy")
    assert "37.5%" in (tmp_path / "copy" / "README.md").read_text()
    loaded.model.get_input_embeddings().weight.data[0] += 1
    loaded.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy" / "evaluation.json").exists()
    assert "37.5%" not in (tmp_path / "copy" / "README.md").read_text()


def test_a_card_that_a_person_wrote_stays(folder):
    (folder / "README.md").write_text("# Mine\n")
    record_figures(folder, FIGURES)
    assert (folder / "README.md").read_text() == "# Mine\n"


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (["by A, CC BY 4.0", "by B, CC-BY-4.0."], "cc-by-4.0"),
        (["A, licensed CC BY-NC-SA 3.0"], "cc-by-nc-sa-3.0"),
        (["A, CC BY 4.0", "B, CC BY-SA 4.0"], None),
        (["Drawn by hand."], None),
        ([], None),
    ],
)
def test_licences(lines, name):
    assert license_of(lines) == name


@pytest.mark.parametrize(
    ("data", "name"),
    [("openmoji", "openmoji"), ("hf:someone/pictures:train", "hf:someone/pictures:train"), ("/a/b/*.tar", "*.tar")],
)
def test_names_of_data(data, name):
    assert data_name(data) == name


# The hub


class FakeHub:
    """In the place of `HfApi`: what would be uploaded lies in `folder`."""

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, []

    def __call__(self, **settings):
        self.calls.append(("api", settings))
        return self

    def create_repo(self, repo_id, **settings):
        self.calls.append(("create", repo_id, settings))
        return FakeUrl(f"https://hub/anna/{repo_id}", f"anna/{repo_id}")

    def upload_folder(self, *, folder_path, **settings):
        self.calls.append(("upload", settings))
        Path(folder_path).rename(self.folder)
        Path(folder_path).mkdir()


class FakeUrl(str):
    repo_id: str

    def __new__(cls, url: str, repo_id: str):
        address = super().__new__(cls, url)
        address.repo_id = repo_id
        return address


def test_push_to_hub(folder, tmp_path, monkeypatch):
    (folder / "run").mkdir()
    (folder / "run" / "log.jsonl").write_text("{}")
    record_figures(folder, FIGURES)
    hub = FakeHub(tmp_path / "uploaded")
    monkeypatch.setattr(vqlm.lm.model_folder.finished_model, "HfApi", hub)
    pipeline = TextToImagePipeline.from_pretrained(folder, "cpu")
    address = pipeline.push_to_hub("emoji", private=True, token="secret", commit_message="First", create_pr=True)
    assert address == "https://hub/anna/emoji"
    assert hub.calls == [
        ("api", {"token": "secret", "library_name": "vqlm"}),
        ("create", "emoji", {"private": True, "exist_ok": True}),
        ("upload", {"repo_id": "anna/emoji", "commit_message": "First", "create_pr": True}),
    ]
    names = {str(path.relative_to(hub.folder)) for path in hub.folder.rglob("*") if path.is_file()}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == there - {"run/log.jsonl"}
    assert {"README.md", "NOTICE", "processor_config.json", "image_tokenizer/preprocessor_config.json"} <= names
    header, body = (hub.folder / "README.md").read_text().split("---\n")[1:3]
    assert yaml.safe_load(header)["model-index"][0]["name"] == "anna/emoji"
    assert 'from_pretrained("anna/emoji")' in body
    loaded = TextToImagePipeline.from_pretrained(hub.folder, "cpu")
    assert loaded.vocabulary.fingerprint() == pipeline.vocabulary.fingerprint()


def test_a_repository_of_the_hub_is_downloaded_without_its_run(folder, monkeypatch):
    asked = []

    def download(name, **settings):
        asked.append((name, settings))
        return str(folder)

    monkeypatch.setattr(vqlm.lm.model_folder.tokenizers, "snapshot_download", download)
    pipeline = TextToImagePipeline.from_pretrained("anna/emoji", "cpu", revision="v1")
    assert asked == [("anna/emoji", {"ignore_patterns": ["run/*"], "revision": "v1"})]
    assert pipeline.settings.trained_on == TRAINED_ON


def test_a_repository_that_cannot_be_had(monkeypatch):
    def download(name, **settings):
        raise OSError("no such repository\nmore")

    monkeypatch.setattr(vqlm.lm.model_folder.tokenizers, "snapshot_download", download)
    with pytest.raises(
        UserError, match=r"anna/gone is not a folder here and cannot be downloaded from the hub \(no such"
    ):
        TextToImagePipeline.from_pretrained("anna/gone")


def test_a_folder_without_an_image_tokenizer(folder):
    (folder / "image_tokenizer").rename(folder / "elsewhere")
    with pytest.raises(UserError, match="emoji has no folder image_tokenizer, .* copy the whole folder"):
        TextToImagePipeline.from_pretrained(folder)


# Saved in half the size


def test_a_folder_in_bf16_loads_in_fp32_with_the_rounded_weights(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "whole")
    pipeline.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    for file in ("model.safetensors", "image_tokenizer/model.safetensors"):
        saved = load_file(tmp_path / "half" / file)
        assert {tensor.dtype for tensor in saved.values() if tensor.is_floating_point()} == {torch.bfloat16}
        assert (tmp_path / "half" / file).stat().st_size < 0.6 * (tmp_path / "whole" / file).stat().st_size
    loaded = TextToImagePipeline.from_pretrained(tmp_path / "half", "cpu")
    for part, original in ((loaded.model, pipeline.model), (loaded.image_tokenizer, pipeline.image_tokenizer)):
        for name, tensor in original.state_dict().items():
            rounded = tensor.to(torch.bfloat16).to(tensor.dtype) if tensor.is_floating_point() else tensor
            assert part.state_dict()[name].dtype == tensor.dtype
            torch.testing.assert_close(part.state_dict()[name], rounded, rtol=0, atol=0)
    assert TextToImageProcessor.from_pretrained(tmp_path / "half").image_tokenizer.dtype == torch.float32
    loaded("red heart", generator=torch.Generator().manual_seed(0))


def test_saving_in_bf16_leaves_the_model_in_memory_alone(pipeline, tmp_path):
    before = pipeline.image_tokenizer.fingerprint()
    pipeline.save_pretrained(tmp_path, dtype=torch.bfloat16)
    assert pipeline.image_tokenizer.fingerprint() == before
    assert pipeline.model.dtype == torch.float32
    with pytest.raises(UserError, match="`dtype` must be float32, bfloat16 or float16, found 'int3'"):
        pipeline.save_pretrained(tmp_path / "other", dtype="int3")


# By name


def test_a_name_is_a_folder_of_models_in_the_checkout(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(vqlm.lm.model_folder.names, "CHECKOUT", tmp_path)
    pipeline.save_pretrained(tmp_path / "models" / "emoji")
    loaded = TextToImagePipeline.from_pretrained("emoji", "cpu")
    assert loaded.image_tokenizer.fingerprint() == pipeline.image_tokenizer.fingerprint()


def test_a_checkout_without_the_base_model_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr(vqlm.lm.model_folder.names, "CHECKOUT", tmp_path)
    (tmp_path / "Makefile").touch()
    with pytest.raises(UserError, match=r"^there is no models/emoji in .*; `make base` there trains"):
        TextToImagePipeline.from_pretrained("emoji")
    with pytest.raises(UserError, match="^other is not a folder"):
        TextToImagePipeline.from_pretrained("other")


def test_an_installed_package_does_not_advise_make(tmp_path, monkeypatch):
    monkeypatch.setattr(vqlm.lm.model_folder.names, "CHECKOUT", tmp_path)
    with pytest.raises(UserError, match="^emoji is not a folder"):
        TextToImagePipeline.from_pretrained("emoji")
