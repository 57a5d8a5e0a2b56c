"""A finished model's folder, or a VQ-VAE's, that is damaged, incomplete, foreign or hostile: one sentence for each."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import vqlm.training.folders.output_folder
from vqlm.lm import TextToImagePipeline
from vqlm.training.errors import UserError
from vqlm.training.folders.weight_files import weights_fingerprint
from vqlm.training.folders.whole_files import read_json, write_json
from vqlm.vq import VQVAE, load_image_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 20693912\n"


@pytest.fixture
def folder(pipeline, tmp_path) -> Path:
    pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_json(path: Path, **changed) -> None:
    write_json(path, read_json(path) | changed)


def change_weights(path: Path, change) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def forget_fingerprint(folder: Path) -> None:
    """As a folder before the fingerprint was in it."""
    content = read_json(folder / "text_to_image.json")
    del content["language_model"]
    write_json(folder / "text_to_image.json", content)


def refused(folder: Path, message: str) -> str:
    with pytest.raises(UserError, match=message) as caught:
        TextToImagePipeline.from_pretrained(folder, "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Weights


def test_the_fingerprint_of_the_weights(folder, pipeline, tmp_path):
    fingerprint = weights_fingerprint(folder)
    assert read_json(folder / "text_to_image.json")["language_model"] == fingerprint
    save_file(
        load_file(folder / "model.safetensors"), folder / "model.safetensors", metadata={"format": "pt", "a": "b"}
    )
    assert weights_fingerprint(folder) == fingerprint  # the same weights in another file
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    assert weights_fingerprint(tmp_path / "parts") == fingerprint
    (folder / "model.safetensors").unlink()
    for path in (tmp_path / "parts").glob("model*"):
        path.rename(folder / path.name)
    assert TextToImagePipeline.from_pretrained(folder, "cpu").model.dtype == torch.float32
    change_weights(folder / "image_tokenizer" / "model.safetensors", lambda weights: None)
    TextToImagePipeline.from_pretrained(folder, "cpu")


def test_foreign_weights_of_the_same_sizes(folder):
    change_weights(folder / "model.safetensors", lambda weights: weights["model.norm.weight"].add_(1))
    refused(
        folder, r"weights in .*model are not those that were saved with it.*take `language_model` out of text_to_im"
    )
    forget_fingerprint(folder)
    TextToImagePipeline.from_pretrained(folder, "cpu")


@pytest.mark.parametrize("has_fingerprint", [True, False])
def test_a_layer_that_is_missing_or_too_many(folder, has_fingerprint):
    if not has_fingerprint:
        forget_fingerprint(folder)
    weights = load_file(folder / "model.safetensors")
    layer = {name: tensor for name, tensor in weights.items() if ".layers.1." in name}
    save_file({name: weights[name] for name in weights.keys() - layer}, folder / "model.safetensors", {"format": "pt"})
    refused(folder, rf"model: its weights lack model.layers.1.* \({len(layer)} missing\); copy or download")
    more = {name.replace("layers.1", "layers.2"): tensor.clone() for name, tensor in layer.items()}
    save_file(weights | more, folder / "model.safetensors", {"format": "pt"})
    refused(folder, r"its weights hold model.layers.2\..*, which config.json has no place for")


def test_sizes_that_do_not_match(folder):
    name = "model.layers.0.mlp.up_proj.weight"
    change_weights(folder / "model.safetensors", lambda weights: weights.update({name: weights[name][:-1].clone()}))
    refused(folder, rf"{name} has another size than config.json says")
    change_json(folder / "config.json", hidden_size=64)
    refused(folder, "has another size than config.json says")


@pytest.mark.parametrize("part", ["", "image_tokenizer"])
def test_weights_that_are_not_whole(folder, part):
    path = folder / part / "model.safetensors"
    whole = path.read_bytes()
    for content, message in (
        (POINTER.encode(), "model.safetensors is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
        (whole[:-100], rf"model.safetensors is not a whole safetensors file \({len(whole) - 100:,} bytes; "),
        (whole[:5], r"not a whole safetensors file \(5 bytes"),
        (b"", r"not a whole safetensors file \(0 bytes"),
        (b"\xff" * 8 + whole[8:], "not a whole safetensors file"),
    ):
        path.write_bytes(content)
        refused(folder, message)
    path.unlink()
    refused(folder, r"holds no weights \(model.safetensors\); copy or download the whole folder again")


@pytest.mark.parametrize("part", ["", "image_tokenizer"])
@pytest.mark.parametrize("name", ["../outside.safetensors", "/tmp/outside.safetensors", "model.bin", "..", 3])
def test_an_index_names_files_of_the_folder_only(folder, part, name):
    path = folder / part / "model.safetensors"
    names = list(load_file(path))
    path.rename(folder.parent / "outside.safetensors")
    write_json(path.with_name("model.safetensors.index.json"), {"weight_map": dict.fromkeys(names, name)})
    refused(folder, r"index.json names .*, which is no safetensors file of the folder")


def test_an_index_that_is_broken(folder):
    (folder / "model.safetensors").unlink()
    for content, message in (("{", "is not JSON"), ("[]", "names no files"), ('{"weight_map": {}}', "names no files")):
        (folder / "model.safetensors.index.json").write_text(content)
        refused(folder, message)
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "model-1.safetensors"}})
    refused(folder, "model-1.safetensors is missing, and .*index.json names it")


@pytest.mark.parametrize("part", ["", "image_tokenizer"])
def test_an_adapter_is_not_loaded(folder, part):
    write_json(folder / part / "adapter_config.json", {"base_model_name_or_path": "/elsewhere", "peft_type": "LORA"})
    refused(folder, "adapter_config.json, an adapter of another model, which is not loaded; merge the adapter")


def test_code_of_the_folder_does_not_run(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (folder / "code.py").write_text("raise SystemExit('it ran')")
    places = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M", "AutoTokenizer": ["code.T", "code.T"]}
    for name in ("config.json", "tokenizer_config.json"):
        change_json(folder / name, auto_map=places)
    TextToImagePipeline.from_pretrained(folder, "cpu")
    change_json(folder / "config.json", model_type="mine")
    refused(folder, "config.json")


# Files of JSON


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", b"{", "config.json is not JSON"),
        ("config.json", b"[]", "config.json must hold a JSON object, found list"),
        ("config.json", b"\xff\xfe", r"config.json is not JSON \(not UTF-8\)"),
        ("config.json", b"{}", "config.json"),
        ("config.json", b'{"model_type": "llama", "hidden_size": "wide"}', "config.json"),
        ("config.json", b'{"model_type": "no such type"}', "config.json"),
        ("config.json", POINTER.encode(), "config.json is a Git LFS pointer"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("tokenizer.json", b"{", "tokenizer.json and the files beside it hold no tokenizer that can be loaded"),
        ("tokenizer.json", b"{}", "tokenizer.json"),
        ("tokenizer.json", POINTER.encode(), "tokenizer.json is a Git LFS pointer"),
        ("tokenizer_config.json", b"{}", "must have the tokens pad, bos and eos"),
        ("vocabulary.json", b"{}", "vocabulary.json is not as it was written .*text_size"),
        ("vocabulary.json", b'{"text_size": 3, "modalities": [{"a": 1}]}', "vocabulary.json is not as it was written"),
        ("text_to_image.json", None, "text_to_image.json is missing"),
        ("text_to_image.json", b"nonsense", "text_to_image.json is not JSON"),
        ("text_to_image.json", b"[" * 100_000, "text_to_image.json is not JSON"),
        ("text_to_image.json", b"3", "text_to_image.json must hold a JSON object, found int"),
        ("text_to_image.json", b"{}", "text_to_image.json: `sampling` must hold guidance_scale"),
        ("text_to_image.json", b'{"sampling": {"heat": 1}}', "text_to_image.json: `sampling` must hold guidance_scale"),
        ("text_to_image.json", b'{"sampling": {}, "max_caption_tokens": "8"}', "`max_caption_tokens` cannot be '8'"),
        ("text_to_image.json", b'{"sampling": {}}', "do not belong together"),
        ("image_tokenizer/config.json", None, "image_tokenizer holds no finished image tokenizer"),
        ("image_tokenizer/config.json", b"{", "image_tokenizer/config.json is not JSON"),
        ("image_tokenizer/config.json", b"[]", "image_tokenizer/config.json must hold a JSON object"),
        ("image_tokenizer/config.json", b'{"network": {"a": 1}}', "image_tokenizer"),
        ("image_tokenizer/config.json", b'{"network": 3}', "image_tokenizer"),
        ("image_tokenizer/config.json", POINTER.encode(), "image_tokenizer/config.json is a Git LFS pointer"),
    ],
)  # fmt: skip
def test_a_file_that_is_missing_or_broken(folder, unchecked_types, file, content, message):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    refused(folder, message)


def test_an_image_tokenizer_whose_weights_do_not_fit(folder):
    place = folder / "image_tokenizer"
    weights = load_file(place / "model.safetensors")
    name = next(name for name in weights if name.startswith("decoder") and weights[name].ndim == 4)
    for changed in (
        {other: tensor for other, tensor in weights.items() if other != name},
        weights | {name: weights[name][:-1].clone()},
        weights | {"decoder.more": torch.zeros(1)},
    ):
        save_file(changed, place / "model.safetensors", {"format": "pt"})
        with pytest.raises(
            UserError, match="image_tokenizer: its weights and config.json do not fit together, at decoder"
        ):
            load_image_tokenizer(place)


def test_a_folder_that_cannot_be_written(pipeline, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="`folder` .*file/model cannot be a folder: .*file is a file"):
        pipeline.save_pretrained(tmp_path / "file" / "model")
    monkeypatch.setattr(vqlm.training.folders.output_folder.os, "access", lambda path, mode: mode != os.W_OK | os.X_OK)
    with pytest.raises(UserError, match="`folder` .*model cannot be written: .* is read-only"):
        pipeline.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


# Arguments of from_pretrained


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batchsize": 3}, "`from_pretrained` has no argument 'batchsize'"),
        ({"revison": "main"}, "`from_pretrained` has no argument 'revison'; did you mean `revision`?"),
        ({"trust_remote_code": True}, "`from_pretrained` has no argument 'trust_remote_code'"),
        ({"dtype": "int8"}, "`dtype` must be float32, bfloat16 or float16, found 'int8'"),
        ({"dtype": torch.int64}, "`dtype` must be float32, bfloat16 or float16, found torch.int64"),
        ({"dtype": "bfloat16", "torch_dtype": "bfloat16"}, "`torch_dtype` is the earlier name of `dtype`"),
        ({"device": "cpu", "device_map": "cpu"}, "give one of the two"),
        ({"device_map": {"model": "cpu", "lm_head": "meta"}}, "`device_map` must name one device"),
        ({"device": "toaster"}, "`device` 'toaster' is not available here"),
    ],
)
def test_arguments_that_are_refused(folder, unchecked_types, given, message):
    with pytest.raises(UserError, match=message):
        TextToImagePipeline.from_pretrained(folder, **given)
    if "batchsize" not in given and "trust_remote_code" not in given:
        with pytest.raises(UserError, match=message):
            VQVAE.from_pretrained(folder / "image_tokenizer", **given)


@pytest.mark.parametrize(
    "given",
    [
        {"dtype": torch.bfloat16}, {"dtype": "bfloat16"}, {"dtype": "torch.bfloat16"}, {"torch_dtype": torch.bfloat16},
        {"torch_dtype": "bf16", "device_map": "cpu"}, {"dtype": "bf16", "device_map": {"": "cpu"}},
    ],
)  # fmt: skip
def test_precision_and_device_are_honoured(folder, given):
    loaded = TextToImagePipeline.from_pretrained(folder, **given)
    assert (loaded.model.dtype, loaded.image_tokenizer.dtype) == (torch.bfloat16, torch.float32)
    assert VQVAE.from_pretrained(folder / "image_tokenizer", **given).dtype == torch.bfloat16
    if "device_map" in given:
        assert loaded.model.device.type == "cpu"


def test_auto_is_the_precision_that_was_saved(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    assert TextToImagePipeline.from_pretrained(tmp_path / "half", dtype="auto").model.dtype == torch.bfloat16
    assert TextToImagePipeline.from_pretrained(tmp_path / "half").model.dtype == torch.float32
    assert TextToImagePipeline.from_pretrained(tmp_path / "half", device_map="auto").model.dtype == torch.float32


# bf16


def test_a_pipeline_in_bf16_draws_and_edits(pipeline):
    assert pipeline.to(torch.bfloat16) is pipeline
    assert (pipeline.model.dtype, pipeline.image_tokenizer.dtype) == (torch.bfloat16, torch.float32)
    pictures = pipeline(["red square", None], generator=1).images
    pipeline.complete(pictures, "red square", generator=1)
    pipeline.vary(pictures, generator=1)
    assert pipeline.to("cpu", torch.float32).model.dtype == torch.float32
    assert pipeline.to("bfloat16").model.dtype == torch.bfloat16
    assert pipeline.to(device="cpu", dtype="float16").model.dtype == torch.float16
    with pytest.raises(UserError, match="`dtype` must be float32"):
        pipeline.to(torch.int64)
    with pytest.raises(UserError, match="`device` 'toaster' is not available"):
        pipeline.to("toaster")


def test_an_image_tokenizer_in_bf16_draws_encodes_and_decodes(pipeline):
    pipeline.image_tokenizer.to(torch.bfloat16)
    pictures = pipeline("red square", generator=1).images
    assert pipeline.vary(pictures, generator=1).codes.shape == (1, 4, 4)


def test_json_of_the_fingerprint_is_read_by_an_earlier_version(folder):
    """It is one more key, so that the version need not change."""
    assert json.loads((folder / "text_to_image.json").read_text())["version"] == 1
