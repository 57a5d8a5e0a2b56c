"""`vqlm train` on a folder, in seconds: whole, interrupted in each stage and continued, and what it refuses."""

import faulthandler
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from PIL import Image

import vqlm.lm.evaluate.choose_sampling
import vqlm.lm.evaluate.report
import vqlm.lm.train.loop
import vqlm.vq.train
from vqlm.data_prep import load_collection, preparation
from vqlm.data_prep.collections import inspection
from vqlm.data_prep.pictures import picture_files
from vqlm.planning import request
from vqlm.planning.machine_speed import MachineSpeed
from vqlm.scripts import train
from vqlm.scripts.stage_settings import split_by_stage, typed_settings
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json
from vqlm.training.machine import matrix_peak

pytestmark = pytest.mark.slow

TINY = [
    "--image-size", "16", "--vq.max-steps", "3", "--vq.network.stem_channels=8", "--vq.network.hidden_channels", "16",
    "--vq.network.num-residual-layers", "1", "--vq.mixed-precision", "no", "--lm.max_steps", "3",
    "--lm.model.hidden_size", "32", "--lm.model.num_hidden_layers", "1", "--lm.mixed-precision", "no",
    "--lm.compile", "no", "--prepare.text.size", "300",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(matrix_peak, "matrix_peak", lambda *_: 123.0)
    monkeypatch.setattr(request, "measure_speed", lambda captions: MachineSpeed(vq_step=0.091, lm_step=0.34))


def call(folder: Path, output: Path, *words: object) -> None:
    train.main([str(folder), "--output", str(output), *map(str, words)])


def test_from_a_folder_to_a_page(picture_folder, tmp_path, capsys):
    output = tmp_path / "mine"
    call(picture_folder, output, *TINY)
    said = capsys.readouterr().out
    plan, rest = said.split("[1/6]")
    for what in ("pictures", "stage one", "stage two", "compile", "start", "sampling", "in all"):
        assert re.search(rf"^  {what} ", plan, re.MULTILINE), what
    assert "16x16, 4 codes each" in plan
    commands = re.findall(r"^\$ .*vqlm (\S+) ", rest, re.MULTILINE)
    assert commands == ["inspect-data", "train-vq", "prepare", "train-lm", "set-sampling", "evaluate"]
    assert re.search(r"image tokenizer: \d+\.\d dB on held-out pictures", rest)
    assert re.search(r"among the ten nearest of 24 for \S+% of 2 \(R@10; chance 42%\).*\(R@1; chance 4.2%\)", rest)
    assert re.search(r"limits? this model (most|a little)\.$", rest, re.MULTILINE)
    assert f"Look at {output / 'report.html'} in a browser" in rest
    assert "Next:" not in rest
    assert rest.rstrip().endswith("--output picture.png")
    for name in ("report.html", "report.md", "report.json", "samples.png", "plan/plan.md", "inspection/inspection.md"):
        assert (output / name).exists(), name
    settings = yaml.safe_load((output / "plan" / "train_lm.yaml").read_text())
    assert settings["max_steps"] == 3
    assert settings["compile"] == "no"
    assert settings["model"] == {"hidden_size": 32, "num_hidden_layers": 1}
    chosen = read_json(output / "model" / "run" / "sampling.json")
    assert read_json(output / "model" / "text_to_image.json")["sampling"] == chosen["sampling"]
    assert len(chosen["table"]) > 1
    assert re.search(r"^sampling: guidance \S+, .* the best of \d settings on 2 held-out prompts", rest, re.MULTILINE)

    words = ["--minutes", 50, "--lm.max_steps", 9, "--lm.sampling.temperature", 0.5, "--lm.sampling.top-k", 7]
    call(picture_folder, output, *words, "--lm.compile", "no")
    said = capsys.readouterr().out
    assert "note: --minutes 50 has no effect any more: the plan in" in said
    assert "note: --lm.max-steps 9 has no effect any more: its stage has begun" in said
    assert "note: --lm.sampling.temperature 0.5, --lm.sampling.top-k 7 have no effect on a finished model; " in said
    assert f"vqlm set-sampling {output / 'model'} --temperature 0.5 --top-k 7\n" in said
    assert "compile" not in said  # as it was
    assert "All is done" in said
    assert "--image-size" not in said  # it was not given
    with pytest.raises(UserError, match=f"was begun with {picture_folder}, not openmoji"):
        call("openmoji", output)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (inspection, "mapped_shards"),
        (vqlm.vq.train, "initialize_codebook"),
        (preparation, "check_sample"),
        (vqlm.lm.train.loop, "held_out_nll"),
        (vqlm.lm.evaluate.choose_sampling, "gallery"),
        (vqlm.lm.evaluate.report, "gallery"),
    ],
)
def test_interrupted_in_a_stage_it_continues(picture_folder, tmp_path, capsys, module, name):
    def stop(*_, **__):
        raise KeyboardInterrupt

    output = tmp_path / "mine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, stop)
        with pytest.raises(SystemExit) as stopped:
            call(picture_folder, output, *TINY)
    assert stopped.value.code == 130
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("stopped; continue with: ")
    assert last.endswith(f"train {picture_folder} --output {output}")
    finished = {path: path.stat().st_mtime_ns for path in output.glob("*/model.safetensors")}
    call(picture_folder, output)
    assert (output / "report.json").exists()
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_a_plan_may_be_edited_before_a_stage_begins(picture_folder, tmp_path, capsys):
    output = tmp_path / "mine"
    call(picture_folder, output, *TINY, "--plan-only")
    assert sorted(path.name for path in output.iterdir()) == ["plan"]
    path = output / "plan" / "train_vq.yaml"
    path.write_text(path.read_text().replace("max_steps: 3", "max_steps: 2"))
    call(picture_folder, output, *TINY)
    assert read_json(output / "image_tokenizer" / "run" / "summary.json")["steps"] == 2


def test_a_plan_that_has_not_begun_is_made_again_for_other_arguments(picture_folder, tmp_path):
    output = tmp_path / "mine"
    call(picture_folder, output, *TINY, "--plan-only")
    call(picture_folder, output, *TINY, "--vq.max-steps", 5, "--plan-only")
    assert yaml.safe_load((output / "plan" / "train_vq.yaml").read_text())["max_steps"] == 5


def test_a_finished_model_is_a_start(picture_folder, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    call(picture_folder, first, *TINY)
    words = ["--lm.max_steps", 2, "--lm.mixed-precision", "no", "--lm.compile", "no"]
    call(picture_folder, second, "--start", first / "model", *words)
    assert not (second / "image_tokenizer").exists()
    assert read_json(second / "model" / "run" / "settings.json")["init_from"] == str(first / "model")
    for wrong, message in (
        (["--start", tmp_path / "none"], "none is not a folder; name the folder of a finished model"),
        (["--start", picture_folder], "holds no finished model: text_to_image.json is missing"),
        (["--start", first / "model", "--image-size", 64], "draws pictures of 16x16, `image_size` is 64"),
        (
            ["--start", first / "model", "--background", "black"],
            "learned its pictures with background white, not black",
        ),
    ):
        with pytest.raises(UserError, match=message):
            call(picture_folder, tmp_path / "none_written", *wrong)
        assert not (tmp_path / "none_written").exists()


def test_twenty_pictures_run_and_are_told_what_to_expect(picture_folder, tmp_path, capsys):
    call(picture_folder, tmp_path / "mine", *TINY, "--plan-only")
    assert "pictures are very few: expect" in capsys.readouterr().out


def test_one_picture_per_class_is_told_that_others_cannot_be_known(tmp_path, capsys):
    for number in range(30):
        (tmp_path / "classes" / f"class{number}").mkdir(parents=True)
        Image.new("RGB", (16, 16), (8 * number, 0, 0)).save(tmp_path / "classes" / f"class{number}" / "a.png")
    call(tmp_path / "classes", tmp_path / "mine", *TINY, "--class-template", "{}", "--plan-only")
    assert "Only 0% of the held-out captions" in capsys.readouterr().out


def test_names_are_captions_where_there_are_no_others(tmp_path, capsys):
    folder, output = tmp_path / "drawings", tmp_path / "mine"
    folder.mkdir()
    for number in range(30):
        colour = ("red", "green", "blue")[number % 3]
        flag = Image.new("RGB", (24, 16), colour)
        flag.paste("white", (0, 0, 4, number % 16))  # no copies
        flag.paste("black", (20, 0, 24, number // 2))
        flag.save(folder / f"{colour}_flag-{number}.png")
    Image.new("RGB", (24, 16), "black").save(folder / "IMG_1234.png")
    call(folder, output, *TINY, "--plan-only")
    said = capsys.readouterr().out
    assert "1 pictures whose names have no words, left out" in said
    assert re.search(r"captions +from names +no file holds captions, and \S+png is '(red|green|blue) flag'", said)
    assert re.search(r"fit +auto +100% are not square", said)
    for stage in ("inspect", "train_vq", "prepare"):
        settings = yaml.safe_load((output / "plan" / f"{stage}.yaml").read_text())
        assert (settings["captions_from"], settings["fit"]) == ("names", "auto")
    call(folder, output, *TINY)
    assert read_json(output / "model" / "image_tokenizer" / "config.json")["fit"] == "auto"
    assert "has no effect" not in capsys.readouterr().out


def test_names_that_are_all_alike_are_no_captions(tmp_path):
    for number in range(30):
        (tmp_path / "classes" / f"class{number}").mkdir(parents=True)
        Image.new("RGB", (16, 16), (8 * number, 0, 0)).save(tmp_path / "classes" / f"class{number}" / "front.png")
    with pytest.raises(UserError, match="`class_template` to .* if its folders are classes"):
        call(tmp_path / "classes", tmp_path / "mine", *TINY, "--plan-only")


def test_names_without_words_are_no_captions(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(30):
        Image.new("RGB", (16, 16)).save(tmp_path / "photos" / f"IMG_{number:04}.png")
    with pytest.raises(UserError, match="30 pictures without a caption; .* set `captions_from` to names"):
        call(tmp_path / "photos", tmp_path / "mine", *TINY, "--plan-only")


def test_captions_all_alike_are_refused(picture_folder, tmp_path):
    table = picture_folder / "metadata.csv"
    table.write_text(
        re.sub(r",.*", ",a picture", table.read_text()).replace("file_name,a picture", "file_name,caption")
    )
    with pytest.raises(UserError, match="all 24 captions are 'a picture', so that a prompt decides nothing"):
        call(picture_folder, tmp_path / "mine", *TINY)
    assert not (tmp_path / "mine").exists()
    call(picture_folder, tmp_path / "mine", *TINY, "--ignore-findings", "--plan-only")


def test_copies_on_both_sides_are_left_out(picture_folder, tmp_path, capsys):
    """A held-out picture is trained on too: nobody is asked, every stage leaves one of them out, and it is said."""
    collection = load_collection(str(picture_folder))
    splits = {row.key: collection.split_of(row.key) for row in collection.rows()}
    held_out = next(key for key, split in splits.items() if split != "train")
    trained = next(key for key, split in splits.items() if split == "train")
    shutil.copy(picture_folder / trained, picture_folder / held_out)
    output = tmp_path / "mine"
    call(picture_folder, output, *TINY)
    said = capsys.readouterr().out
    assert "are also trained on under another name" in said
    assert "--drop-copies. This training does so; with --ignore-findings it keeps them." in said
    for folder in ("image_tokenizer", "data"):
        assert len(re.findall(rf"--drop-copies .*--output \S*{folder}", said)) == 1
    report = json.loads((output / "report.json").read_text())
    assert sum(report["pictures"].values()) == len(splits) - 1
    call(picture_folder, output, *TINY)
    assert "All is done" in capsys.readouterr().out


def test_findings_that_would_ruin_the_training_stop_it(picture_folder, tmp_path, capsys):
    names = sorted(path.name for path in picture_folder.glob("*.png"))
    for name in names[1:]:
        shutil.copy(picture_folder / names[0], picture_folder / name)  # one picture is left
    output = tmp_path / "mine"
    with pytest.raises(UserError, match=r"would go wrong: .* are also trained on .*`ignore_findings`"):
        call(picture_folder, output, *TINY)
    assert not (output / "image_tokenizer").exists()
    with pytest.raises(UserError, match="would go wrong"):
        call(picture_folder, output, *TINY)


def test_pictures_that_cannot_be_used_and_what_is_advised(picture_folder, tmp_path, capsys):
    """Both ways that the error names go to the end, in every stage."""
    collection = load_collection(str(picture_folder))
    for key in [row.key for row in collection.rows() if collection.split_of(row.key) == "train"][:3]:
        (picture_folder / key).write_bytes(b"no picture")
    output = tmp_path / "mine"
    with pytest.raises(
        UserError,
        match=r"--max-skipped 0\.1\..*inspection/unusable\.jsonl\..*--max-skipped 0\.13\..*`ignore_findings`",
    ):
        call(picture_folder, output, *TINY)
    call(picture_folder, output, *TINY, "--ignore-findings")
    said = capsys.readouterr().out
    assert "3 of 24 pictures skipped, most often (3) because" in said
    assert "3 could not be used" in said
    assert (output / "report.json").exists()
    call(picture_folder, tmp_path / "other", *TINY, "--max-skipped", 0.13)
    assert (tmp_path / "other" / "report.json").exists()


def test_a_few_broken_pictures_stop_nothing(picture_folder, tmp_path, capsys):
    for name in ("blue-circle-2.png", "red-square-4.png"):
        (picture_folder / name).write_bytes(b"no picture")
    call(picture_folder, tmp_path / "mine", *TINY)
    said = capsys.readouterr().out
    assert "2 of 24 pictures" in said
    assert len(re.findall(r"--max-skipped 0\.1 ", said)) == 2  # of train-vq and prepare
    assert (tmp_path / "mine" / "report.json").exists()


def test_decoders_that_crash_end_no_run(picture_folder, tmp_path, monkeypatch):
    is_svg = picture_files._is_svg

    def crash(image: bytes | Path) -> bool:
        if isinstance(image, Path) and image.read_bytes() == b"crash":
            faulthandler.disable()  # whose page would hide the outcome of the tests
            os.kill(os.getpid(), signal.SIGSEGV)
        return is_svg(image)

    for name in ("blue-circle-2.png", "red-square-4.png"):
        (picture_folder / name).write_bytes(b"crash")
    monkeypatch.setattr(picture_files, "_is_svg", crash)
    output = tmp_path / "mine"
    call(picture_folder, output, *TINY)
    for listed in ("inspection/unusable.jsonl", "data/skipped.jsonl"):
        reasons = [json.loads(line) for line in (output / listed).read_text().splitlines()]
        assert sorted(row["key"] for row in reasons) == ["blue-circle-2.png", "red-square-4.png"]
        assert {row["reason"] for row in reasons} == {"its decoder crashed (SIGSEGV)"}
    assert (output / "report.json").exists()


def test_a_begun_plan_takes_another_share_of_unusable_pictures(picture_folder, tmp_path, capsys):
    output = tmp_path / "mine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "check_sample", _stop)
        with pytest.raises(SystemExit):
            call(picture_folder, output, *TINY)
    capsys.readouterr()
    shutil.rmtree(output / "data", ignore_errors=True)
    call(picture_folder, output, "--max-skipped", 0.5)
    said = capsys.readouterr().out
    assert "no effect" not in said
    assert re.search(r"vqlm prepare .*--max-skipped 0\.5 ", said)


def _stop(*_, **__):
    raise KeyboardInterrupt


def test_the_same_folder_written_otherwise(picture_folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "mine"
    call(picture_folder, output, *TINY)
    (tmp_path / "link").symlink_to(picture_folder)
    monkeypatch.chdir(tmp_path)
    for written in (f"{picture_folder}/", "pictures", "./pictures/", "link", f"../{tmp_path.name}/pictures"):
        train.main([written, "--output", str(output)])
        assert "All is done" in capsys.readouterr().out
    picture_folder.rename(tmp_path / "moved")
    call(tmp_path / "moved", output)
    assert "All is done" in capsys.readouterr().out
    shutil.copytree(tmp_path / "moved", tmp_path / "other")
    (tmp_path / "other" / "red-circle-2.png").unlink()
    with pytest.raises(UserError, match=f"was begun with {picture_folder}, not {tmp_path / 'other'}"):
        call(tmp_path / "other", output)


def test_a_plan_that_has_not_begun_is_of_the_same_folder_written_otherwise(picture_folder, tmp_path, monkeypatch):
    output = tmp_path / "mine"
    call(picture_folder, output, *TINY, "--plan-only")
    path = output / "plan" / "train_vq.yaml"
    path.write_text(path.read_text().replace("max_steps: 3", "max_steps: 2"))
    call(f"{picture_folder}/", output, "--plan-only")
    assert yaml.safe_load(path.read_text())["max_steps"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["my_pictures"], "there is no folder my_pictures here"),
        (["PICTURES", "--minutes", "0.1"], "the least that makes sense is"),
        (["PICTURES", "--minutes", "-1"], "--minutes must be above 0, found -1"),
        (["PICTURES", "--image-size", "50"], "--image-size must be a multiple of 8"),
        (["PICTURES", "--vq.quantiser", "3"], "there is no option --vq.quantiser"),
        (["PICTURES", "--lm.data", "x"], "--lm.data is set by `vqlm train` itself"),
        (["PICTURES", "--plan", "PICTURES"], "holds none of inspect.yaml"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(start_script, picture_folder, tmp_path, words, said):
    words = [str(picture_folder) if word == "PICTURES" else word for word in words]
    done = start_script("train", *words, "--output", tmp_path / "mine")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "mine").exists()


def test_an_output_that_cannot_be_used(picture_folder, tmp_path):
    file = picture_folder / "metadata.csv"
    with pytest.raises(UserError, match=f"cannot be a folder: {file} is a file"):
        call(picture_folder, file / "mine")
    with pytest.raises(UserError, match="already holds .*, which this command did not write"):
        call(picture_folder, picture_folder)


def test_options_of_a_stage_are_read_by_its_command():
    words = [
        "pictures",
        "--vq.quantizer.type",
        "fsq",
        "--vq.quantizer.levels",
        "[4,4]",
        "--minutes",
        "3",
        "--lm.compile=no",
    ]
    others, of_stages = split_by_stage(words)
    assert others == ["pictures", "--minutes", "3"]
    assert of_stages == {"vq": ["--quantizer.type", "fsq", "--quantizer.levels", "[4,4]"], "lm": ["--compile=no"]}
    assert typed_settings("vq", of_stages["vq"]) == {"quantizer": {"type": "fsq", "levels": [4, 4]}}
    assert typed_settings("lm", ["--max-minutes", "2", "--no-lora"]) == {"max_minutes": 2.0, "lora": False}
