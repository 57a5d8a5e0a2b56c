"""What the arguments alone show to be wrong is refused before torch is imported; one program tries all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TRY = """
import json, sys
from vqlm.scripts.commands import run_command
from vqlm.scripts.options import ScriptParser
from vqlm.training.errors import UserError
for name, *words in json.loads(sys.argv[1]):
    try:
        run_command(name, words)
        print("nothing")
    except UserError as error:
        print(ScriptParser.in_use.in_options(str(error)))
print("torch" in sys.modules, "transformers" in sys.modules, "datasets" in sys.modules)
"""

WRONG = [
    (("train", "DATA", "--output", "o", "--minutes", "-3"), "--minutes must be above 0, found -3"),
    (("train", "DATA", "--output", "o", "--minutes", "0"), "--minutes must be above 0, found 0"),
    (("train", "DATA", "--output", "o", "--image-size", "63"), "--image-size must be a multiple of 8"),
    (("train", "none", "--output", "o"), "there is no folder none here"),
    (("train", "--data", "none", "--output", "o"), "there is no folder none here"),
    (("train", "DATA", "--output", "o", "--start", "nowhere"), "nowhere is not a folder"),
    (("train", "DATA", "--output", "o", "--start", "MODEL/image_tokenizer"), "the finished model is MODEL."),
    (("train", "DATA", "--output", "o", "--plan", "none"), "holds none of inspect.yaml"),
    (("train", "DATA", "--output", "o", "--lm.lerning-rate", "3"), "did you mean --lm.learning-rate?"),
    (("train", "", "--output", "o"), "DATA is empty"),
    (("train", "DATA", "--output", ""), "--output is empty"),
    (("train",), "required, and not given: DATA, --output"),
    (("set-sampling",), "required, and not given: MODEL"),
    (("set-sampling", "--model", "none", "--top-k", "3"), "none does not exist"),
    (("set-sampling", "MODEL", "--choose-on", "none"), "none does not exist"),
    (("train-vq", "--data", "none", "--output", "o"), "there is no folder none here"),
    (("train-vq", "--data", "DATA", "--output", "dangling"), "which does not exist"),
    (("inspect-data", "--data", "none", "--output", "o"), "there is no folder none here"),
    (("prepare", "--data", "none", "--image-tokenizer", "MODEL/image_tokenizer", "--output", "o"), "no folder none"),
    (
        ("prepare", "--data", "DATA", "--image-tokenizer", "MODEL", "--output", "o"),
        "tokenizer is MODEL/image_tokenizer",
    ),
    (("inspect-vq", "--model", "MODEL", "--data", "DATA", "--output", "o"), "is a finished model, not an image"),
    (("compare-pca", "--model", "MODEL", "--data", "DATA", "--output", "o"), "is a finished model, not an image"),
    (("train-lm", "--data", "none", "--output", "o"), "none does not exist"),
    (("train-lm", "--data", "MODEL", "--output", "o"), "is a finished model, not a prepared set"),
    (("evaluate", "--model", "none", "--data", "SET", "--output", "o"), "none is not a folder"),
    (("evaluate", "--model", "MODEL/image_tokenizer", "--data", "SET", "--output", "o"), "the finished model is MODEL"),
    (("sample-prior", "--model", "MODEL", "--data", "none", "--output", "o.png"), "none does not exist"),
    (("sample-prior", "--model", "MODEL", "--data", "SET", "--output", "o.txt"), "--output must end in .png"),
    (("generate", "--model", "none", "--output", "o.png"), "none is not a folder"),
    (("generate", "--model", "", "--output", "o.png"), "--model is empty"),
    (("generate", "--model", "MODEL", "--image", "none.png", "--output", "o.png"), "there is no file none.png"),
    (("generate", "MODEL", "--output", "o.png"), "MODEL belongs to no option; did you mean --model MODEL?"),
    (("caption", "--model", "MODEL", "--image", "none.png"), "there is no file none.png"),
    (("caption", "--model", "MODEL", "--image", "DATA/a.png"), "was not trained to describe pictures"),
    (("serve", "--model", "none"), "none is not a folder"),
    (("serve", "--model", "MODEL", "--port", "99999"), "--port must lie in [0, 65535]"),
    (("app", "--model", "none"), "none is not a folder"),
    (("train", "DATA", "--output", "o", "--minutes", "nan"), "--minutes must be a finite number, found nan"),
    (("inspect-data", "--data", "DATA", "--output", "o", "--num-workers", "-1"), "--num-workers must be at least 0"),
    (
        (
            "prepare",
            "--data",
            "DATA",
            "--image-tokenizer",
            "MODEL/image_tokenizer",
            "--output",
            "o",
            "--num-workers=-1",
        ),
        "--num-workers must be at least 0, found -1",
    ),
    (
        ("inspect-vq", "--model", "MODEL/image_tokenizer", "--data", "DATA", "--output", "DATA/a.png/below"),
        "a.png is a file",
    ),
    (
        ("compare-pca", "--model", "MODEL/image_tokenizer", "--data", "DATA", "--output", "dangling"),
        "a link to nowhere, which does not exist",
    ),
    (("watch", "DATA", "--seconds", "0"), "--seconds must be above 0, found 0"),
    (("watch", "DATA", "--page", "DATA/a.png/page.html"), "a.png is a file"),
    (("plan", "--config", "none.yaml"), "--config none.yaml cannot be read (No such file or directory)"),
    (("plan", "--config", "DATA"), "--config data cannot be read (Is a directory)"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("here")
    (folder / "data").mkdir()
    (folder / "data" / "a.png").touch()
    (folder / "dangling").symlink_to("nowhere")
    model, prepared = folder / "model", folder / "set"
    (model / "image_tokenizer").mkdir(parents=True)
    (model / "text_to_image.json").write_text(json.dumps({"sampling": {}, "can_caption": False}))
    (model / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (model / "image_tokenizer" / "config.json").write_text(json.dumps({"model_type": "vqvae"}))
    (model / "image_tokenizer" / "model.safetensors").touch()
    prepared.mkdir()
    (prepared / "manifest.json").write_text("{}")
    names = {"DATA": "data", "MODEL": "model", "SET": "set"}

    def real(word: str) -> str:
        first, slash, rest = word.partition("/")
        return f"{names.get(first, first)}{slash}{rest}"

    commands = [[real(word) for word in words] for words, _ in WRONG]
    done = subprocess.run(
        [sys.executable, "-c", TRY, json.dumps(commands)], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["dangling", "data", "model", "set"]
    return done.stdout.splitlines()


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[" ".join(words) for words, _ in WRONG])
def test_it_is_one_sentence(answers, number):
    said = WRONG[number][1].replace("MODEL", "model") if number != MISSING else WRONG[number][1]
    assert said in answers[number]


MISSING = next(number for number, (words, _) in enumerate(WRONG) if words == ("set-sampling",))


def test_nothing_heavy_was_imported(answers):
    assert answers[-1] == "False False False"


@pytest.mark.parametrize("name", ["vq", "lm", "data_prep", "training"])
def test_the_old_names_are_refused_in_the_repository(name):
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, cwd=root)
    assert f"No module named '{name}'; since 0.2.0 it is vqlm.{name}." in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]], ids=" ".join)
def test_a_reader_that_ends_early(words):
    command = f"{sys.executable} -m vqlm {' '.join(words)} | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == "u"
    assert done.stderr == ""
