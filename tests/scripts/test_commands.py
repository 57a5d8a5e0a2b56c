"""The command `vqlm`: its help, its subcommands, every way to start one, and what it does not import."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from vqlm.scripts import commands
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json

KNOWN = {name: command for group in commands.COMMANDS.values() for name, command in group.items()}
HEAVY = ["torch", "transformers", "datasets", "accelerate", "numpy", "pandas", "pyarrow", "scipy", "PIL.Image"]

# Prints which modules are loaded after the command line in argv has run.
RUN_AND_LIST = """
import json, sys
heavy, sys.argv = json.loads(sys.argv[1]), ["vqlm", *sys.argv[2:]]
from vqlm.scripts.commands import main
try:
    main()
finally:
    print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def loaded_by(program: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(HEAVY), *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_help_lists_every_subcommand_in_the_order_of_use(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vqlm", "--help"])
    commands.main()
    shown = capsys.readouterr().out
    order = [
        "inspect-data", "train-vq", "inspect-vq", "prepare", "train-lm", "plan", "watch", "generate", "caption", "app",
        "serve", "evaluate",
    ]  # fmt: skip
    places = [shown.index(f"\n  {name} ") for name in order]
    assert places == sorted(places)
    assert set(KNOWN) == {*order, "train", "demo", "advise", "set-sampling", "compare-pca", "sample-prior"}


def test_every_subcommand_is_a_script(monkeypatch):
    for command in KNOWN.values():
        assert callable(importlib.import_module(f"vqlm.scripts.{command.module}").main)


def test_a_wrong_subcommand_is_told_the_nearest():
    with pytest.raises(UserError, match="no subcommand 'train_vg'; did you mean train-vq or train or train-lm?"):
        commands.run_command("train_vg", [])
    with pytest.raises(
        UserError, match="no subcommand 'xyz'; it has train, demo, advise, inspect-data, .*sample-prior"
    ):
        commands.run_command("xyz", [])


def test_an_error_of_the_library_is_told_in_options(start_script, tmp_path):
    done = start_script("train_vq", "--data", tmp_path, "--output", tmp_path / "vq", "--max-steps", "0")
    assert done.returncode == 2
    assert done.stderr == "error: --max-steps must be above 0, found 0.\n"


@pytest.mark.parametrize("name", KNOWN)
def test_help_imports_nothing_heavy(name):
    assert loaded_by(RUN_AND_LIST, name, "--help") == []


def test_a_wrong_option_imports_nothing_heavy():
    program = RUN_AND_LIST.replace("    main()", "    main()\nexcept SystemExit:\n    pass")
    assert loaded_by(program, "train-lm", "--max-stepps", "3") == []


@pytest.mark.slow
def test_importing_vqlm_and_drawing_load_no_collections(call_script, picture_folder, vq_yaml, lm_yaml, tmp_path):
    assert loaded_by("import json, sys, vqlm; print(json.dumps([n for n in sys.argv[1:] if n in sys.modules]))") == []
    vq, data, model = (tmp_path / name for name in ("vq", "data", "model"))
    call_script("train_vq", "--config", vq_yaml, "--data", picture_folder, "--output", vq)
    call_script("prepare_data", "--data", picture_folder, "--image-tokenizer", vq, "--output", data, "--text.size=300")
    call_script("train_lm", "--config", lm_yaml, "--data", data, "--output", model)
    picture = tmp_path / "picture.png"
    loaded = loaded_by(RUN_AND_LIST, "generate", "--model", str(model), "--prompt", "red", "--output", str(picture))
    assert picture.exists()
    assert "torch" in loaded
    assert not {"datasets", "pandas", "pyarrow"} & set(loaded)


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        [sys.executable, "-m", "vqlm", "train-vq"],
        [sys.executable, "-m", "vqlm.scripts.train_vq"],
        [sys.executable, "SCRIPTS/train_vq.py"],
        [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", "SCRIPTS/train_vq.py"],
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--cpu",
            "--num_processes=1",
            "-m",
            "vqlm.scripts.train_vq",
        ],
    ],
    ids=lambda words: " ".join(words[1:]),
)
def test_every_way_to_start_a_stage(start, script_folder, picture_folder, vq_yaml, tmp_path):
    vq_yaml.write_text(vq_yaml.read_text().replace('mixed_precision: "no"\n', ""))
    start = [word.replace("SCRIPTS", str(script_folder)) for word in start]
    done = subprocess.run(
        [*start, "--config", vq_yaml, "--data", picture_folder, "--output", tmp_path / "vq"],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_json(tmp_path / "vq" / "run" / "summary.json")["steps"] == 3
