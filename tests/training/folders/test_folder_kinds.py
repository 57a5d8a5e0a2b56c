"""A folder of another kind is told by its files, and the one that was meant is named."""

import json
from pathlib import Path

import pytest

from vqlm.training.errors import UserError
from vqlm.training.folders.folder_kinds import PARTS, is_kind, refuse_other_kind, require_kind


def write(folder: Path, kind: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "image tokenizer":
        (folder / "config.json").write_text(json.dumps({"model_type": "vqvae"}))
        (folder / "model.safetensors").touch()
    elif kind == "finished model":
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        (folder / "text_to_image.json").write_text("{}")
        write(folder / "image_tokenizer", "image tokenizer")
    elif kind == "prepared set":
        (folder / "manifest.json").write_text("{}")
        write(folder / "image_tokenizer", "image tokenizer")
    else:
        (folder / "plan").mkdir()
        (folder / "plan" / "made_for.json").write_text("{}")
        for part, name in PARTS.items():
            write(folder / name, part)
    return folder


@pytest.mark.parametrize("kind", PARTS)
def test_a_folder_of_its_kind(tmp_path, kind):
    folder = write(tmp_path / "it", kind)
    assert [other for other in PARTS if is_kind(folder, other)] == [kind]
    require_kind(folder, kind)
    require_kind(str(folder), kind)


@pytest.mark.parametrize(
    ("kind", "wanted", "said"),
    [
        ("finished model", "image tokenizer",
         "FOLDER is a finished model, not an image tokenizer; the image tokenizer is FOLDER/image_tokenizer."),
        ("prepared set", "image tokenizer",
         "FOLDER is a prepared set, not an image tokenizer; the image tokenizer is FOLDER/image_tokenizer."),
        ("image tokenizer", "finished model",
         "FOLDER is an image tokenizer, not a finished model; `vqlm train-lm` writes one."),
        ("image tokenizer", "prepared set",
         "FOLDER is an image tokenizer, not a prepared set; `vqlm prepare` writes one."),
        ("output of train", "finished model",
         "FOLDER is the output of `vqlm train`, not a finished model; the finished model is FOLDER/model."),
        ("output of train", "prepared set",
         "FOLDER is the output of `vqlm train`, not a prepared set; the prepared set is FOLDER/data."),
        ("output of train", "image tokenizer",
         "FOLDER is the output of `vqlm train`, not an image tokenizer; the image tokenizer is "
         "FOLDER/image_tokenizer."),
    ],
)  # fmt: skip
def test_a_folder_of_another_kind(tmp_path, kind, wanted, said):
    folder = write(tmp_path / "it", kind)
    for require in (require_kind, refuse_other_kind):
        with pytest.raises(UserError) as caught:
            require(folder, wanted)
        assert str(caught.value) == said.replace("FOLDER", str(folder))


def test_the_folder_beside_it(tmp_path):
    output = write(tmp_path / "mine", "output of train")
    with pytest.raises(UserError, match=f"not a finished model; the finished model is {output / 'model'}"):
        require_kind(output / "image_tokenizer", "finished model")
    with pytest.raises(UserError, match=f"not a prepared set; the prepared set is {output / 'data'}"):
        require_kind(output / "model", "prepared set")


@pytest.mark.parametrize("kind", PARTS)
def test_what_is_no_folder_of_ours(tmp_path, kind):
    for name, said in (
        ("none", "does not exist"),
        ("file", "is a file"),
        ("empty", "holds no finished"),
        ("", "empty"),
    ):
        (tmp_path / "file").touch()
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=said):
            require_kind(tmp_path / name if name else "", kind)
        if name:
            refuse_other_kind(tmp_path / name, kind)


def test_a_model_of_others_is_no_image_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="is a model of type gpt2, not an image tokenizer"):
        require_kind(tmp_path, "image tokenizer")
    refuse_other_kind(tmp_path, "finished model")  # a text model to start from


def test_a_run_that_is_not_finished(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text(json.dumps({"network.type": "patch"}))
    with pytest.raises(UserError, match="is not finished; continue it with `vqlm train-vq` and `resume`"):
        require_kind(tmp_path, "image tokenizer")
