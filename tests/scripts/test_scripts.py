"""From a folder of pictures to a drawn one through the five scripts; --help, --config, overrides."""

import json
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import vqlm.lm.train.start
from vqlm.data_prep import load_collection
from vqlm.data_prep.collections import collection_loading
from vqlm.lm import TextToImagePipeline
from vqlm.scripts import commands
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json
from vqlm.training.machine import matrix_peak
from vqlm.vq import VQVAE

pytestmark = pytest.mark.slow

COMMANDS = {command.module: name for group in commands.COMMANDS.values() for name, command in group.items()}


@pytest.fixture(autouse=True)
def _no_benchmark(monkeypatch):
    monkeypatch.setattr(matrix_peak, "matrix_peak", lambda *_: 123.0)


def size_of(path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_from_pictures_to_a_report(call_script, picture_folder, vq_yaml, lm_yaml, tmp_path, capsys):
    runs = tmp_path / "runs"
    vq, data, model, report = runs / "vq", runs / "data", runs / "model", runs / "eval"

    call_script("train_vq", "--config", vq_yaml, "--data", picture_folder, "--output", vq, "--max-steps", 2)
    assert (vq / "model.safetensors").exists()
    assert size_of(vq / "reconstructions.png")[0] >= 16
    assert read_json(vq / "run" / "summary.json")["steps"] == 2  # the option, not the file
    settings = read_json(vq / "run" / "settings.json")
    assert settings["batch_size"] == 8  # the file, not the default
    assert settings["network.hidden_channels"] == 16

    call_script("prepare_data", "--data", picture_folder, "--image-tokenizer", vq, "--output", data, "--text.size=300")
    counts = read_json(data / "manifest.json")["splits"]
    assert counts.keys() == {"train", "held_out"}
    assert sum(counts.values()) == 24

    call_script(
        "train_lm", "--data", data, "--output", model, "--config", lm_yaml,
        "--model.num-hidden-layers=1", "--sequences.code_noise", 0.2,
    )  # fmt: skip
    assert read_json(model / "config.json")["num_hidden_layers"] == 1
    assert read_json(model / "config.json")["hidden_size"] == 32
    assert read_json(model / "run" / "settings.json")["sequences.code_noise"] == 0.2
    assert read_json(model / "text_to_image.json")["sampling"]["guidance_scale"] == 1.5
    assert read_json(model / "run" / "summary.json")["steps"] == 3

    one, four, without = tmp_path / "new" / "one.png", tmp_path / "four.jpg", tmp_path / "without.png"
    call_script("generate", "--model", model, "--prompt", "red square", "--output", one, "--seed", 1)
    assert size_of(one) == (16, 16)
    call_script("generate", "--model", model, "--prompt", "red square", "--output", four, "--num-images", 4)
    assert size_of(four)[0] >= 4 * 16
    call_script("generate", "--model", model, "--output", without, "--guidance-scale", 3, "--temperature", 0)
    assert size_of(without) == (16, 16)
    again = tmp_path / "again.png"
    call_script("generate", "--model", model, "--prompt", "red square", "--output", again, "--seed", 1)
    assert again.read_bytes() == one.read_bytes()
    continued, mended, mask = tmp_path / "continued.png", tmp_path / "mended.png", tmp_path / "mask.png"
    call_script("generate", "--model", model, "--image", one, "--keep-rows", 3, "--output", continued, "--seed", 1)
    assert size_of(continued) == (16, 16)
    Image.new("L", (16, 16), 255).save(mask)
    call_script("generate", "--model", model, "--image", one, "--mask", mask, "--num-images", 2, "--output", mended)
    assert size_of(mended)[0] >= 2 * 16
    for wrong, message in (
        (["--mask", mask], "`mask` needs `image`"),
        (["--image", one, "--rerank", 2], "`rerank` has no effect with `image`"),
        (["--image", one, "--mask", mask, "--keep-rows", 1], "give one of the two"),
        (["--image", tmp_path / "none.png"], "there is no file .*none.png; name a picture"),
        (["--prompt", "red", "--rerank", 2], "`sequences.captioning`"),
    ):
        with pytest.raises(UserError, match=message):
            call_script("generate", "--model", model, "--output", tmp_path / "wrong.png", *wrong)
    with pytest.raises(UserError, match="again.png exists; name another `output`, or give `overwrite`"):
        call_script("generate", "--model", model, "--output", again)
    described = json.loads(Image.open(again).text["vqlm"])
    assert described["prompt"] == "red square"
    assert described["seed"] == 1
    call_script("generate", "--model", model, "--output", again, "--overwrite", "--prompt", "red square", "--seed", 1)
    call_script("set_sampling", model, "--min-p", 0.125)
    assert read_json(model / "text_to_image.json")["sampling"]["min_p"] == 0.125
    with pytest.raises(UserError, match="there is nothing to change; give one of `guidance_scale`"):
        call_script("set_sampling", model)
    with pytest.raises(UserError, match=r"`top_p` must lie in \(0, 1\]"):
        call_script("set_sampling", model, "--top-p", 2)
    call_script("set_sampling", model, "--min-p", 0)
    with pytest.raises(UserError, match="--sequences.captioning above 0"):
        call_script("caption", "--model", model, "--image", one)
    settings_file = model / "text_to_image.json"
    settings_file.write_text(settings_file.read_text().replace('"can_caption": false', '"can_caption": true'))
    prior = tmp_path / "prior.png"
    call_script("sample_prior", "--model", model, "--data", data, "--output", prior, "--num-images", 3)
    assert min(size_of(prior)) >= 3 * 16
    captions = tmp_path / "metadata.jsonl"
    call_script("caption", "--model", model, "--image", one, again, "--output", captions)
    described = [json.loads(line) for line in captions.read_text().splitlines()]
    assert [line["file_name"] for line in described] == [
        "new/one.png",
        "again.png",
    ]  # from the file's folder, so that they load
    assert described[0]["caption"] == described[1]["caption"] != ""
    with pytest.raises(UserError, match="exists; name another"):
        call_script("caption", "--model", model, "--image", one, "--output", captions)
    settings_file.write_text(settings_file.read_text().replace('"can_caption": true', '"can_caption": false'))

    capsys.readouterr()
    call_script("evaluate", "--model", model, "--data", data, "--output", report)
    assert (report / "report.md").read_text(encoding="utf-8") in capsys.readouterr().out
    figures = read_json(report / "report.json")
    assert figures["seconds"].keys() == {"train_vq", "prepare_data", "train_lm", "evaluate"}
    assert None not in figures["seconds"].values()
    assert min(size_of(report / "samples.png")) > 100
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "## Figures" in card
    assert f"{figures['held_out_psnr_db']:.2f} dB" in card


def test_a_finished_model_is_trained_on_with_new_pictures(call_script, picture_folder, vq_yaml, lm_yaml, tmp_path):
    vq, data, model, more, tuned = (tmp_path / name for name in ("vq", "data", "model", "more", "tuned"))
    call_script("train_vq", "--config", vq_yaml, "--data", picture_folder, "--output", vq, "--max-steps", 2)
    call_script("prepare_data", "--data", picture_folder, "--image-tokenizer", vq, "--output", data, "--text.size=300")
    call_script("train_lm", "--data", data, "--output", model, "--config", lm_yaml)
    table = picture_folder / "metadata.csv"
    table.write_text(table.read_text().replace(" square", " box in crayon").replace(" circle", " disc in crayon"))
    call_script("prepare_data", "--data", picture_folder, "--for-model", model, "--output", more)
    arguments = ["--init-from", model, "--max-steps", 2, "--batch-size", 4, "--compile=no", "--mixed-precision=no"]
    call_script("train_lm", "--data", more, "--output", tuned, *arguments, "--lora", "--lora-rank", 4)
    assert read_json(tuned / "run" / "settings.json")["lora_rank"] == 4
    assert read_json(tuned / "text_to_image.json")["sampling"]["guidance_scale"] == 1.5
    assert (tuned / "adapter" / "adapter_model.safetensors").exists()
    picture = tmp_path / "crayon.png"
    call_script("generate", "--model", tuned, "--prompt", "red box in crayon", "--output", picture)
    assert size_of(picture) == (16, 16)
    for count, wrong in (("neither", []), ("both", ["--image-tokenizer", vq, "--for-model", model])):
        with pytest.raises(UserError, match=rf"give either `image_tokenizer` .* or `for_model` .*; found {count}\.$"):
            call_script("prepare_data", "--data", picture_folder, "--output", tmp_path / "none", *wrong)
    with pytest.raises(UserError, match="`lora` adapts a finished model; name its folder in `init_from`"):
        call_script("train_lm", "--data", more, "--output", tmp_path / "none", "--lora")


def test_sampling_that_comes_after_the_training_is_said_to_have_no_effect(
    call_script, picture_folder, vq_yaml, lm_yaml, tmp_path, capsys
):
    vq, data, model = tmp_path / "vq", tmp_path / "data", tmp_path / "model"
    call_script("train_vq", "--config", vq_yaml, "--data", picture_folder, "--output", vq)
    call_script("prepare_data", "--data", picture_folder, "--image-tokenizer", vq, "--output", data, "--text.size=300")
    train = ["--data", data, "--output", model, "--config", lm_yaml]
    call_script("train_lm", *train)
    assert "no effect" not in capsys.readouterr().out
    call_script("train_lm", *train, "--resume", "--sampling.temperature", 0.5, "--sampling.guidance-scale=1")
    said = capsys.readouterr()
    assert f"{model} is finished already, after 3 steps" in said.err
    assert (
        "note: --sampling.guidance-scale 1.0, --sampling.temperature 0.5 have no effect on a finished model" in said.out
    )
    assert f"vqlm set-sampling {model} --guidance-scale 1.0 --temperature 0.5\n" in said.out
    call_script("set_sampling", model, "--guidance-scale", 1.0, "--temperature", 0.5)
    capsys.readouterr()
    call_script("train_lm", *train, "--resume", "--sampling.temperature", 0.5, "--sampling.guidance-scale=1")
    assert "no effect" not in capsys.readouterr().out

    call_script("set_sampling", model, "--choose-on", data, "--seconds", 0.001)
    said = capsys.readouterr().out
    assert said.startswith("sampling: guidance 2, temperature 0.25, min-p 0.05; the best of 1 settings")
    assert f"Next: vqlm evaluate --model {model} --data {data}" in said.replace(sys.executable + " -m ", "")
    with pytest.raises(UserError, match="`min_p` has no effect with `choose_on`"):
        call_script("set_sampling", model, "--choose-on", data, "--min-p", 0.1)


def test_a_finished_run_may_be_resumed(call_script, picture_folder, vq_yaml, tmp_path):
    arguments = ["--config", vq_yaml, "--data", picture_folder, "--output", tmp_path / "vq"]
    call_script("train_vq", *arguments)
    before = (tmp_path / "vq" / "model.safetensors").read_bytes()
    call_script("train_vq", *arguments, "--resume")
    assert (tmp_path / "vq" / "model.safetensors").read_bytes() == before


def test_a_run_under_old_names_is_resumed(call_script, picture_folder, vq_yaml, tmp_path):
    arguments = ["--config", vq_yaml, "--data", picture_folder, "--output", tmp_path / "vq"]
    call_script("train_vq", *arguments)
    settings = tmp_path / "vq" / "run" / "settings.json"
    text = settings.read_text().replace("warmup_ratio", "warmup_share").replace("size_mismatch", "misfit")
    assert "network.misfit" in text
    settings.write_text(text)
    call_script("train_vq", *arguments, "--resume", "--max-steps", 4)
    assert read_json(tmp_path / "vq" / "run" / "summary.json")["steps"] == 4
    with pytest.raises(UserError, match=r"its `network.size_mismatch` is 'refuse', now 'pad'"):
        call_script("train_vq", *arguments, "--resume", "--network.misfit", "pad")


@pytest.fixture
def demo(call_script, picture_folder, vq_yaml, lm_yaml, tmp_path, monkeypatch):
    """The demo on the folder of pictures, with tiny networks; returns its output folder."""
    few = load_collection(str(picture_folder))
    monkeypatch.setattr(collection_loading, "openmoji_shards", lambda image_size, languages: (few.shards, few.splits))
    monkeypatch.setattr(collection_loading, "SPLITS", few.held_out_names)
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "train_vq.yaml").write_text(vq_yaml.read_text())
    (configs / "train_lm.yaml").write_text(lm_yaml.read_text())

    def run():
        call_script("demo", "--configs", configs, "--output", tmp_path / "demo")
        return tmp_path / "demo"

    return run


def files_of(folder) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_demo_leaves_models_a_report_and_pictures(demo, capsys):
    output = demo()
    for name in ("samples.png", "reconstructions.png", "curves.png", "report.md", "report.json", "model/NOTICE"):
        assert (output / name).exists(), name
    assert "OpenMoji" in (output / "report.md").read_text()
    said = capsys.readouterr().out
    assert "GFLOPS in bf16" in said
    assert "vqlm train-vq --config " in said


def test_the_demo_run_again_says_that_all_is_done(demo, capsys):
    before = files_of(demo())
    capsys.readouterr()
    assert files_of(demo()) == before
    assert capsys.readouterr().out.startswith("All is done")


def test_the_demo_stopped_between_stages_keeps_what_is_finished(demo, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vqlm.lm.train.start, "build_language_model", stop)
        with pytest.raises(SystemExit):
            demo()
    finished = {
        path: time for name in ("image_tokenizer", "data") for path, time in files_of(tmp_path / "demo" / name).items()
    }
    assert finished
    after = files_of(demo())
    assert {path: after[path] for path in finished} == finished
    assert (tmp_path / "demo" / "report.json").exists()


@pytest.mark.parametrize(
    ("type_name", "settings"),
    [
        ("vq", ("--quantizer.codebook-training=simvq", "--quantizer.gradient_estimator", "rotation")),
        ("fsq", ("--quantizer.levels", "[3,4]")),
        ("lfq", ("--quantizer.codebook-size=16",)),
        ("residual", ("--quantizer.codebook-size=16", "--quantizer.num-quantizers", 3)),
        ("grouped", ("--quantizer.codebook-size=16",)),
        ("hierarchical", ("--quantizer.codebook-size=16", "--quantizer.level-channels=8")),
    ],
)
def test_every_quantizer_leads_to_a_drawn_picture(
    call_script, picture_folder, vq_yaml, lm_yaml, tmp_path, type_name, settings
):
    vq, data, model, picture = (tmp_path / name for name in ("vq", "data", "model", "picture.png"))
    everything_else = yaml.safe_load(vq_yaml.read_text())
    del everything_else["quantizer"]
    vq_yaml.write_text(yaml.safe_dump(everything_else))
    call_script(
        "train_vq", "--data", picture_folder, "--output", vq, "--config", vq_yaml,
        "--quantizer.type", type_name, *settings,
    )  # fmt: skip
    call_script("prepare_data", "--data", picture_folder, "--image-tokenizer", vq, "--output", data, "--text.size=300")
    call_script("train_lm", "--data", data, "--output", model, "--config", lm_yaml)
    call_script("generate", "--model", model, "--prompt", "red square", "--output", picture)
    assert size_of(picture) == (16, 16)


def test_pca_beside_a_trained_tokenizer(call_script, picture_folder, vq_yaml, tmp_path, capsys):
    vq, output = tmp_path / "vq", tmp_path / "pca"
    call_script("train_vq", "--data", picture_folder, "--output", vq, "--config", vq_yaml)
    call_script("compare_pca", "--model", vq, "--data", picture_folder, "--output", output)
    comparison = read_json(output / "comparison.json")
    assert comparison["bits_a_picture"] == 64  # 16 codes of 4 bits
    assert list(comparison["pca_psnr_db"]) == ["8", "16", "32", "64", "128", "256", "512"]
    assert comparison["pca_psnr_db"]["512"] > comparison["pca_psnr_db"]["8"]
    assert size_of(output / "comparison.png")[0] > 500
    assert f"PCA {comparison['pca_psnr_db']['64']:.2f} dB" in capsys.readouterr().out


def test_from_series_to_a_drawn_one(call_script, call_example, vq_yaml, lm_yaml, tmp_path, capsys):
    vq, data, model = (tmp_path / name for name in ("vq", "data", "model"))
    hours, peaks = np.arange(24), np.repeat([6, 18], 20)
    days = np.exp(-((hours - peaks[:, None]) ** 2) / np.linspace(4, 40, 40)[:, None])[:, None]
    captions = np.array([f"a {'winter' if peak == 6 else 'summer'} day" for peak in peaks])
    np.savez(tmp_path / "days.npz", values=days.astype(np.float32), captions=captions)
    call_script(
        "train_vq", "--data", tmp_path / "days.npz", "--output", vq, "--config", vq_yaml,
        "--network.input_shape", "[24]", "--network.in_channels", 1, "--network.strides", "[2,2]",
    )  # fmt: skip
    assert not (vq / "reconstructions.png").exists()
    call_script(
        "prepare_data", "--data", tmp_path / "days.npz", "--image-tokenizer", vq, "--output", data, "--text.size=300"
    )
    call_script("train_lm", "--data", data, "--output", model, "--config", lm_yaml)
    drawn = TextToImagePipeline.from_pretrained(model)("a winter day", num_images_per_prompt=2)
    assert drawn.codes.shape == (2, 6)
    assert [(day.shape, day.dtype) for day in drawn.images] == [((1, 24), torch.float32)] * 2
    assert all(day.isfinite().all() and day.abs().max() <= 1 for day in drawn.images)
    with pytest.raises(UserError, match=r"draws arrays of shape \[24\], not pictures; take them from Python"):
        call_script("generate", "--model", model, "--prompt", "a winter day", "--output", tmp_path / "new.png")
    assert not (tmp_path / "new.png").exists()
    capsys.readouterr()
    call_example("text_to_series", "--data", tmp_path / "days.npz", "--model", model, "--output", tmp_path / "days.png")
    said = capsys.readouterr().out
    held_out = len(list(load_collection(str(tmp_path / "days.npz")).rows("held_out")))
    assert f"{40 - held_out} series trained on, {held_out} held out" in said
    assert "real, held out: 100.0%" in said  # two peaks twelve hours apart
    assert "drawn: " in said
    assert size_of(tmp_path / "days.png")[0] > 500


def test_a_collapse_is_on_the_page_of_its_inspection(call_script, picture_folder, vq_yaml, tmp_path, capsys):
    vq, planted, output = tmp_path / "vq", tmp_path / "planted", tmp_path / "inspection"
    call_script("train_vq", "--data", picture_folder, "--output", vq, "--config", vq_yaml)
    model = VQVAE.from_pretrained(vq)
    model.quantizer.codebook[2:] = 1000.0
    model.save_pretrained(planted)
    capsys.readouterr()
    call_script("inspect_vq", "--model", planted, "--data", picture_folder, "--output", output, "--split", "train")
    page = (output / "inspection.md").read_text(encoding="utf-8")
    assert "- 88% of 16 codes are unused. Take a smaller --quantizer.codebook-size" in page
    assert "| codes never used | 14 (87.5%) |" in page
    assert page in capsys.readouterr().out
    for name in ("figures.png", "worst.png", "codebook.png"):
        assert min(size_of(output / name)) >= 16, name


def test_an_inspection_is_of_a_split_and_of_an_empty_folder(call_script, picture_folder, vq_yaml, tmp_path):
    vq, output = tmp_path / "vq", tmp_path / "inspection"
    call_script("train_vq", "--data", picture_folder, "--output", vq, "--config", vq_yaml)
    arguments = ["--model", vq, "--data", picture_folder, "--output", output]
    with pytest.raises(UserError, match="`split` must be held_out or train, found 'test'"):
        call_script("inspect_vq", *arguments, "--split", "test")
    assert not output.exists()
    call_script("inspect_vq", *arguments)
    number = len(list(load_collection(str(picture_folder)).rows("held_out")))
    assert f"| pictures | {number} |" in (output / "inspection.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="already holds files"):
        call_script("inspect_vq", *arguments)


def test_help_shows_the_settings_of_the_quantizer_asked_for(call_script, tmp_path, capsys):
    config = tmp_path / "fsq.yaml"
    config.write_text("quantizer:\n  type: fsq\n")
    for chosen in (("--quantizer.type", "fsq"), ("--quantizer.type=fsq",), ("--config", config)):
        with pytest.raises(SystemExit):
            call_script("train_vq", *chosen, "--help")
        shown = capsys.readouterr().out
        assert "--quantizer.levels" in shown
        assert "--quantizer.ema-decay" not in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_help(call_script, name, capsys):
    with pytest.raises(SystemExit) as stopped:
        call_script(name, "--help")
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"vqlm {COMMANDS[name]} " in shown
    assert "--config CONFIG" in shown
    if name not in ("advise", "app", "serve", "set_sampling", "watch"):  # which write no output
        assert "--output OUTPUT" in shown


@pytest.mark.parametrize(
    ("name", "option", "help_text"),
    [
        ("train_vq", "--quantizer.codebook-size", "number of codes"),
        ("train_lm", "--sampling.guidance-scale", "weight of the prompt"),
        ("train_lm", "--max-steps", "optimizer steps"),
        ("train_lm", "--text-weight", "weight of captions"),
    ],
)
def test_help_explains_every_setting(call_script, name, option, help_text, capsys):
    with pytest.raises(SystemExit):
        call_script(name, "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert option in shown
    assert help_text in shown
