"""The Python blocks of the documents run, those of one document in order, with a model of a few weights."""

import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch

from vqlm.data_prep import Vocabulary

sys.path.insert(0, str(Path(__file__).parent))
from documents import DOCUMENTS, blocks  # noqa: E402

# What a block contains, and why it is not run; `test_commands.py` checks its imports.
NOT_RUN = {
    "compile=True": "compiles a model, which takes minutes",
    "PeftModel": "loads adapters, which only a training leaves",
    "push_to_hub": "writes to the hub",
    "client.images": "needs a server; tests/serve has one, and the same calls",
}
# The lecture quotes lines of our code, see test_lecture.py.
PYTHON = {path: blocks(path, "python") for path in DOCUMENTS if path.name != "lecture.md"}
RUN = {path: [block for block in parts if not any(text in block for text in NOT_RUN)] for path, parts in PYTHON.items()}


@pytest.fixture
def working_folder(demo_pipeline, tmp_path) -> Path:
    """The folders and files that the blocks read."""
    shutil.copytree("outputs/demo/model", "runs/model")
    shutil.copyfile("picture.png", "cat.png")
    Vocabulary.train(["a heartbeat"] * 3, 300, {"image": 16, "sound": 8}).save_pretrained("runs/data/vocabulary")
    return tmp_path


@pytest.mark.parametrize("path", [path for path, parts in RUN.items() if parts], ids=lambda path: path.name)
def test_the_blocks_run(path, working_folder):
    names = {"codes": torch.tensor([0, 7]), "more_codes": torch.arange(16)}  # of captions and codes, in text.md
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a model of a few weights
        for block in RUN[path]:
            exec(compile(block, path.name, "exec"), names)


def test_the_reasons_not_to_run_a_block_hold():
    for text in NOT_RUN:
        assert any(text in block for parts in PYTHON.values() for block in parts), text


def test_the_blocks_of_the_readme_save_pictures(working_folder):
    """The base model's, then that of the demo's, in whose place stands a small one."""
    readme = next(path for path in PYTHON if path.name == "README.md")
    for block, name in zip(PYTHON[readme], ("surfer.png", "heart.png"), strict=True):
        exec(compile(block, "README.md", "exec"), {})
        assert (working_folder / name).exists()
