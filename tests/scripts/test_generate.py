"""vqlm generate and vqlm caption: files, sheets, prompts of a file, and pictures that say how they were drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vqlm.lm.model_folder.tokenizers
from vqlm.data_prep import CollectionConfig, load_collection
from vqlm.lm import SamplingConfig, TextToImagePipeline
from vqlm.training.errors import UserError

MODEL = "outputs/demo/model"
SIDE = 16


@pytest.fixture(autouse=True)
def in_a_folder_with_a_model(demo_pipeline) -> None:
    """The working folder has a model in outputs/demo/model, and picture.png."""


@pytest.fixture
def generate(call_script):
    return lambda *arguments: call_script("generate", *arguments, "--device", "cpu")


def pixels(path: str | Path) -> np.ndarray:
    return np.array(Image.open(path))


def said_by(path: str | Path) -> dict:
    return json.loads(Image.open(path).text["vqlm"])


# Files and sheets


def test_several_pictures_as_files_and_as_a_sheet(generate, capsys):
    drawing = ["--model", MODEL, "--prompt", "red heart", "--num-images", 3, "--seed", 7]
    generate(*drawing, "--output", "heart")
    names = ["001-red-heart.png", "002-red-heart.png", "003-red-heart.png"]
    assert sorted(path.name for path in Path("heart").iterdir()) == names
    assert [line for line in capsys.readouterr().out.splitlines() if "seed" in line] == [
        f"heart/{name}: seed {7 + number}" for number, name in enumerate(names)
    ]
    generate(*drawing, "--output", "sheet.png")
    assert "sheet.png: 3 drawn, seed 7" in capsys.readouterr().out
    sheet, cell = pixels("sheet.png"), SIDE + 4  # a gap of two pixels around each
    assert sheet.shape == (cell, 3 * cell, 3)
    for column, name in enumerate(names):
        part = sheet[2 : 2 + SIDE, column * cell + 2 : column * cell + 2 + SIDE]
        np.testing.assert_array_equal(part, pixels(Path("heart", name)))
    assert len({path.read_bytes() for path in Path("heart").iterdir()}) == 3


def test_each_file_is_what_its_seed_draws_alone(generate):
    generate(
        "--model", MODEL, "--prompt", "red heart", "--num-images", 3, "--rerank", 2, "--seed", 7, "--output", "all"
    )
    for number, seed in enumerate((7, 9, 11)):
        path = Path("all", f"00{number + 1}-red-heart.png")
        assert said_by(path)["seed"] == seed
        alone = f"{seed}.png"
        generate("--model", MODEL, "--prompt", "red heart", "--rerank", 2, "--seed", seed, "--output", alone)
        np.testing.assert_array_equal(pixels(path), pixels(alone))


def test_the_batch_size_changes_no_file(generate):
    drawing = ["--model", MODEL, "--prompt", "red heart", "--num-images", 5, "--seed", 1]
    generate(*drawing, "--output", "one", "--batch-size", 2)
    generate(*drawing, "--output", "other")
    for path in Path("one").iterdir():
        np.testing.assert_array_equal(pixels(path), pixels(Path("other", path.name)))


def test_sheets_have_a_row_per_prompt_or_rows_of_eight(generate):
    Path("two.txt").write_text("red heart\nblue square\n")
    generate("--model", MODEL, "--prompts", "two.txt", "--num-images", 3, "--output", "rows.png")
    assert pixels("rows.png").shape == (2 * 20, 3 * 20, 3)
    generate("--model", MODEL, "--num-images", 10, "--output", "eight.webp")
    assert Image.open("eight.webp").size == (8 * 20, 2 * 20)


def test_several_pictures_of_a_prompt_differ(generate, demo_pipeline):
    """With the temperature of the folder they would all be alike; one picture alone keeps it."""
    call = ["--model", MODEL, "--prompt", "red heart"]
    demo_pipeline.sampling = SamplingConfig(temperature=0.0)
    demo_pipeline.save_pretrained(MODEL)
    generate(*call, "--num-images", 8, "--output", "eight")
    assert len({pixels(path).tobytes() for path in Path("eight").iterdir()}) == 8
    assert {said_by(path)["temperature"] for path in Path("eight").iterdir()} == {1.0}
    generate(*call, "--num-images", 2, "--temperature", 0, "--output", "alike")
    assert len({pixels(path).tobytes() for path in Path("alike").iterdir()}) == 1
    generate(*call, "--output", "one.png")
    assert said_by("one.png")["temperature"] == 0.0
    generate("--like", "eight/003-red-heart.png", "--output", "third.png")
    np.testing.assert_array_equal(pixels("third.png"), pixels("eight/003-red-heart.png"))


# Files of prompts


def test_prompts_with_settings_of_their_own(generate, capsys):
    lines = [
        {"prompt": "red heart"},
        {"prompt": "blue square", "seed": 50, "top_k": 1, "num_images": 2},
        {"prompt": None},
    ]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    generate("--model", MODEL, "--prompts", "prompts.jsonl", "--seed", 3, "--guidance-scale", 2, "--output", "drawn")
    said = [said_by(path) for path in sorted(Path("drawn").iterdir())]
    assert [one.get("prompt") for one in said] == ["red heart", "blue square", "blue square", None]
    assert [one["seed"] for one in said] == [3, 50, 51, 6]
    assert [one["top_k"] for one in said] == [0, 1, 1, 0]
    assert {one["guidance_scale"] for one in said} == {2.0}
    generate(
        "--model",
        MODEL,
        "--prompt",
        "blue square",
        "--top-k",
        1,
        "--seed",
        51,
        "--guidance-scale",
        2,
        "--output",
        "b.png",
    )
    np.testing.assert_array_equal(pixels("b.png"), pixels("drawn/003-blue-square.png"))


# Pictures that say how they were drawn


def test_like_draws_the_same_picture_and_options_change_it(generate):
    settings = ["--temperature", 2, "--negative-prompt", "x", "--guidance-scale", 3]
    generate("--model", MODEL, "--prompt", "red heart", *settings, "--output", "a.png")
    said = said_by("a.png")
    assert (said["prompt"], said["negative_prompt"], said["temperature"]) == ("red heart", "x", 2.0)
    assert (said["model"], said["dtype"], said["guidance_scale"], said["min_p"]) == (MODEL, "float32", 3.0, 0.0)
    generate("--like", "a.png", "--output", "b.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    generate("--like", "a.png", "--seed", said["seed"] + 1, "--output", "c.png")
    assert said_by("c.png") == said | {"seed": said["seed"] + 1}
    assert (pixels("c.png") != pixels("a.png")).any()
    generate("--like", "a.png", "--prompt", "blue square", "--output", "d.png")
    assert said_by("d.png") == said | {"prompt": "blue square"}
    generate("--like", "a.png", "--num-images", 2, "--output", "more")
    np.testing.assert_array_equal(pixels("more/001-red-heart.png"), pixels("a.png"))


def test_like_draws_a_sheet_of_several_prompts(generate):
    Path("two.txt").write_text("red heart\nblue square\n")
    generate("--model", MODEL, "--prompts", "two.txt", "--output", "a.png")
    generate("--like", "a.png", "--output", "b.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    with pytest.raises(UserError, match="a.png shows 2 prompts; leave `prompts` out"):
        generate("--like", "a.png", "--prompts", "two.txt", "--output", "c.png")


def test_like_continues_and_repaints_again(generate):
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(255, (0, 0, 8, 8))
    mask.save("mask.png")
    ways = {"c": ["--keep-rows", 1, "--negative-prompt", "x", "--guidance-scale", 2], "m": ["--mask", "mask.png"]}
    for name, options in ways.items():
        generate("--model", MODEL, "--prompt", "red", "--image", "picture.png", *options, "--output", f"{name}.png")
        generate("--like", f"{name}.png", "--output", f"{name}2.png")
        assert Path(f"{name}.png").read_bytes() == Path(f"{name}2.png").read_bytes()


# What is refused, before the model is loaded


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--output", "a.gif"], r"`output` must end in .png, .jpg or .webp, or be a folder .*; found 'a.gif'"),
        (["--output", "picture.png"], "picture.png exists; name another `output`, or give `overwrite`"),
        (["--output", "picture.png/a.png"], "picture.png cannot be a folder: .*picture.png is a file"),
        (["--output", "full"], "full/001-no-prompt.png exists"),
        (["--output", "a.png", "--seed", -1], "`seed` must be a whole number from 0"),
        (["--output", "a.png", "--seed", 2**63], "`seed` must be a whole number from 0 to 9223372036854775807"),
        (["--output", "a.png", "--num-images", 0], "`num_images` must be at least 1, found 0"),
        (["--output", "a.png", "--temperature", "nan"], "--temperature must be a finite number, found nan"),
        (["--output", "a.png", "--batch-size", 0], "`batch_size` must be at least 1, found 0"),
        (
            ["--output", "a.png", "--dtype", "float8"],
            "--dtype: expected one of 'float32', 'bfloat16', 'float16', found float8",
        ),
        (["--output", "a.png", "--prompt", "a", "--prompts", "b"], "give one of the two"),
        (["--output", "a.png", "--like", "picture.png"], "picture.png does not say how it was drawn"),
    ],
)
def test_what_is_refused(generate, wrong, message, monkeypatch):
    Path("full").mkdir()
    Path("full/001-no-prompt.png").touch()
    monkeypatch.setattr(vqlm.lm.loaded_model, "load_finished", lambda *_: pytest.fail("the model is loaded"))
    with pytest.raises(UserError, match=message):
        generate("--model", MODEL, *wrong)


def test_a_model_must_be_named(generate):
    with pytest.raises(UserError, match="required, and not given: `model`"):
        generate("--output", "a.png")


def test_the_name_of_a_model_on_the_hub(generate, monkeypatch):
    asked = []

    def download(name, **settings):
        asked.append(name)
        return str(Path(MODEL).resolve())

    monkeypatch.setattr(vqlm.lm.model_folder.tokenizers, "snapshot_download", download)
    generate("--model", "anna/emoji", "--prompt", "red heart", "--seed", 2, "--output", "hub.png")
    generate("--model", MODEL, "--prompt", "red heart", "--seed", 2, "--output", "here.png")
    np.testing.assert_array_equal(pixels("hub.png"), pixels("here.png"))
    assert said_by("hub.png")["model"] == "anna/emoji"
    generate("--like", "hub.png", "--output", "again.png")
    assert asked == ["anna/emoji"] * 2


# Captions


@pytest.fixture
def described(monkeypatch) -> None:
    """An untrained model may describe a picture by nothing."""
    captions = lambda self, pictures: [f"thing {number}" for number in range(len(pictures))]  # noqa: E731
    monkeypatch.setattr(TextToImagePipeline, "caption", captions)


def test_captions_name_files_that_load_again(call_script, described):
    Path("pictures/inner").mkdir(parents=True)
    for number, name in enumerate(("a.png", "inner/b ü.png")):
        Image.new("RGB", (SIDE, SIDE), ("red", "blue")[number]).save(Path("pictures", name))
    describe = ["--model", MODEL, "--image", "pictures/a.png", "pictures/inner/b ü.png"]
    call_script("caption", *describe, "--output", "pictures/metadata.jsonl")
    lines = [json.loads(line) for line in Path("pictures/metadata.jsonl").read_text().splitlines()]
    captions = {line["file_name"]: line["caption"] for line in lines}
    assert list(captions) == ["a.png", "inner/b ü.png"]
    rows = list(load_collection("pictures", SIDE).rows())
    assert {row.key: row.captions for row in rows} == {name: (caption,) for name, caption in captions.items()}


def test_captions_of_pictures_elsewhere(call_script, described, capsys):
    """Through a symbolic link the file is the link's, not what it points to."""
    Path("pictures").mkdir()
    Path("elsewhere").mkdir()
    for number in range(2):
        Image.new("RGB", (SIDE, SIDE), ("red", "blue")[number]).save(f"elsewhere/{number}.png")
        Path(f"pictures/{number}.png").symlink_to(Path(f"elsewhere/{number}.png").absolute())
    describe = ["--model", MODEL, "--image", "pictures/0.png", "pictures/1.png"]
    call_script("caption", *describe, "--output", "pictures/metadata.jsonl")
    assert {row.key for row in load_collection("pictures", SIDE).rows()} == {"0.png", "1.png"}
    assert "allow-outside-files" not in capsys.readouterr().err
    Path("captions").mkdir()
    call_script("caption", *describe, "--output", "captions/metadata.jsonl")
    assert "note: 2 pictures lie outside captions: read it with --allow-outside-files" in capsys.readouterr().err
    with pytest.raises(UserError, match="allow_outside_files"):
        load_collection("captions", SIDE)
    rows = load_collection("captions", SIDE, CollectionConfig(allow_outside_files=True)).rows()
    assert len(list(rows)) == 2


def test_captions_that_cannot_be_written_are_refused_first(call_script, monkeypatch):
    monkeypatch.setattr(vqlm.lm.loaded_model, "load_finished", lambda *_: pytest.fail("the model is loaded"))
    with pytest.raises(UserError, match="picture.png is a file"):
        call_script("caption", "--model", MODEL, "--image", "picture.png", "--output", "picture.png/metadata.jsonl")
