"""FSDP2 on two processes: the training of DDP, checkpoints for any number of processes, a stock model in the end."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from vqlm.data_prep import PreparedSet, TextConfig, load_collection, prepare
from vqlm.lm import TextToImagePipeline
from vqlm.lm.evaluate.metrics import evaluate_nll
from vqlm.lm.settings import LMTrainingConfig
from vqlm.lm.train.sharded import refuse_unsharded
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json
from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("sharded_trainings.py")
COLOURS = ("red", "green", "blue", "black", "orange", "purple", "white", "gray", "pink", "gold", "navy", "teal")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds the finished folders of all trainings of the script, which one worker of the tests starts for all."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sharded"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            _train_all(folder)
    assert (folder / "tuned" / "model.safetensors").exists()
    return folder


def _train_all(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir()
    (folder / "pictures").mkdir()
    for colour in COLOURS:
        for number in range(2):
            Image.new("RGB", (16, 16), colour).save(folder / "pictures" / f"{colour}-{number}.png")
            (folder / "pictures" / f"{colour}-{number}.txt").write_text(f"{colour} square")
    network = NetworkConfig(
        input_shape=[16, 16], strides=[2, 2], stem_channels=8, hidden_channels=16, num_residual_layers=1
    )
    model = VQVAE(VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=16, codebook_dim=4))).eval()
    model.quantizer.initialize(model.encode_continuous(torch.rand(8, 3, 16, 16) * 2 - 1))
    collection = load_collection(str(folder / "pictures"), 16)
    prepare(collection, model, folder / "data", "pictures", TextConfig(size=300), num_workers=0)
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, free_port(), free_port()],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "said.txt").write_text(done.stderr)


def free_port() -> str:
    with socket.socket() as meeting:
        meeting.bind(("127.0.0.1", 0))
        return str(meeting.getsockname()[1])


def weights_of(output: Path) -> dict[str, Tensor]:
    return load_file(output / "model.safetensors")


def figures_of(output: Path, name: str) -> list[float]:
    lines = map(json.loads, (output / "run" / "log.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize(
    ("sharded", "whole"),
    [
        ("whole", "ddp"),
        ("accumulated", "ddp_accumulated"),
        ("checkpointed", "ddp_checkpointed"),
        ("checkpointed", "ddp"),
        ("bf16", "ddp_bf16"),
        ("adamw", "ddp_adamw"),
    ],
)
def test_the_training_is_that_of_ddp(folder, sharded, whole):
    for name, steps in (("image_nll", 12), ("text_nll", 12), ("held_out_image_nll", 3)):
        values = figures_of(folder / sharded, name)
        assert len(values) == steps
        assert values == pytest.approx(figures_of(folder / whole, name), rel=1e-3)
    weights = weights_of(folder / sharded)
    for name, weight in weights_of(folder / whole).items():
        assert (weights[name] - weight).norm() < 1e-2 * weight.norm(), name


def test_the_finished_folder_is_stock(folder):
    files = [{path.name for path in (folder / name).iterdir()} for name in ("whole", "ddp")]
    assert files[0] == files[1]
    model = AutoModelForCausalLM.from_pretrained(folder / "whole")
    assert type(model) is LlamaForCausalLM
    assert {name: weight.shape for name, weight in weights_of(folder / "whole").items()} == {
        name: weight.shape for name, weight in weights_of(folder / "ddp").items()
    }
    assert read_json(folder / "whole" / "config.json") == read_json(folder / "ddp" / "config.json")
    assert TextToImagePipeline.from_pretrained(folder / "whole", "cpu")("red square").images[0].size == (16, 16)


def test_each_process_saves_its_part(folder):
    checkpoint = folder / "whole" / "run" / "checkpoint"
    assert len(list((checkpoint / "sharded").glob("*.distcp"))) == 2
    assert "sharded/.metadata" in read_json(checkpoint / "checksums.json")
    assert not list(checkpoint.glob("*.safetensors"))


def test_continued_on_two_processes_bit_for_bit(folder):
    whole, parts = weights_of(folder / "whole"), weights_of(folder / "parts")
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_another_number_of_processes_loads_the_same_weights(folder):
    one, two = weights_of(folder / "half_on_one"), weights_of(folder / "half_on_two")
    assert [name for name in two if not torch.equal(one[name], two[name])] == []
    assert read_json(folder / "half_on_one" / "run" / "summary.json")["steps"] == 6


def test_one_process_continues_what_two_began(folder):
    assert figures_of(folder / "on_one", "image_nll")[:6] == figures_of(folder / "whole", "image_nll")[:6]
    assert len(figures_of(folder / "on_one", "image_nll")) == 12
    # It reads half as many rows per step, and goes on falling.
    (first, *_, last) = figures_of(folder / "on_one", "held_out_image_nll")
    assert last < first
    before, after = (
        read_json(folder / name / "run" / "checkpoint" / "state.json") for name in ("half_on_two", "half_on_one")
    )
    assert (before["num_processes"], after["num_processes"]) == (2, 1)
    assert (after["epoch"], after["batch"]) == (before["epoch"], 2 * before["batch"])


def test_a_finished_model_is_trained_further(folder):
    assert figures_of(folder / "tuned", "image_nll")[0] < figures_of(folder / "ddp", "image_nll")[0]
    assert figures_of(folder / "tuned", "held_out_image_nll")[-1] < figures_of(folder / "ddp", "held_out_image_nll")[-1]


def test_held_out_rows_are_shared_and_counted_once(folder):
    finished, prepared = TextToImagePipeline.from_pretrained(folder / "ddp", "cpu"), PreparedSet.load(folder / "data")
    # Of one row and two processes the second computes it too, and does not count it.
    for number, computed in ((1, [1, 1]), (5, [3, 2])):
        alone = evaluate_nll(finished.model, finished.vocabulary, prepared.train.select(range(number)), 8, 16)
        for rank in range(2):
            nll, num_rows = torch.load(folder / f"evaluated_{rank}.pt")[number]
            assert nll == pytest.approx(alone, rel=1e-6)
            assert num_rows == computed[rank]


def test_that_no_samples_are_drawn_is_said(folder):
    said = (folder / "said.txt").read_text()
    assert said.count("no samples are drawn while FSDP2 trains: each process holds a part of the weights") > 1
    assert not (folder / "whole" / "run" / "samples").exists()


def test_adapters_are_refused(monkeypatch):
    config = LMTrainingConfig()
    config.lora = True
    refuse_unsharded(config)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UserError, match="`lora` trains few weights"):
        refuse_unsharded(config)
