"""Several processes with a share of the batch each train what one process with all of it would train."""

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("two_processes.py")
TRAININGS = SCRIPT.with_name("two_trainings.py")


def module_of(path: Path):
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, str(request.param)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


def test_gathered_rows_are_in_rank_order_everywhere(ranks):
    for results in ranks:
        assert results["gathered"].tolist() == [[rank, row] for rank in range(len(ranks)) for row in (0, 1)]


def test_the_sum_is_the_same_everywhere(ranks):
    total, count = sum(range(len(ranks))), len(ranks)
    for results in ranks:
        assert results["sum"].tolist() == [[total, 0], [total, count]]


def test_one_codebook_revival_included(ranks):
    two_processes = module_of(SCRIPT)
    alone = two_processes.train(rank=0, processes=1)
    assert sum(alone["revived"]) > 0
    for results in ranks:
        assert results["revived"] == alone["revived"]
        for name, tensor in alone["state"].items():
            assert torch.equal(results["state"][name], tensor), name


def test_held_out_pictures_are_shared_and_counted_once(ranks):
    two_processes = module_of(SCRIPT)
    for number in two_processes.NUMBERS_OF_PICTURES:
        alone, computed = two_processes.evaluate(number)
        assert computed == number
        assert [results["evaluated"][number][1] for results in ranks] == [
            len(range(rank, number, len(ranks))) for rank in range(len(ranks))
        ]
        for results in ranks:
            assert results["evaluated"][number][0] == pytest.approx(alone, rel=1e-5)


def free_port() -> str:
    with socket.socket() as meeting:
        meeting.bind(("127.0.0.1", 0))
        return str(meeting.getsockname()[1])


@pytest.mark.parametrize("processes", [2, 4])
def test_every_quantizer_learns_the_same_on_several_processes(tmp_path, processes):
    done = subprocess.run(
        [sys.executable, TRAININGS, tmp_path, str(processes), free_port()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trainings = module_of(TRAININGS)
    alone = trainings.train_all(tmp_path / "alone", processes=1, rank=0)
    first, *others = (torch.load(tmp_path / f"{rank}.pt") for rank in range(processes))
    assert all(alone.keys() == held.keys() for held in (first, *others))
    for name, weights in alone.items():
        assert all(torch.equal(first[name], held[name]) for held in others), name
        losses = [trainings.losses_of(tmp_path / folder / name) for folder in ("several", "alone")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3), name
        assert (first[name] - weights).norm() < 1e-2 * weights.norm(), name


def test_accumulated_batches_are_one_larger_batch(tmp_path):
    trainings = module_of(TRAININGS)
    whole = trainings.train_all(tmp_path / "whole", processes=1, rank=0)
    parts = trainings.train_all(tmp_path / "parts", processes=1, rank=0, accumulation=2)
    for name, weights in whole.items():
        if name in ("lfq-plain", "lfq-adversary") or name.endswith("adversary"):
            continue  # the entropy of a mean over the batch, and a scale by the batch's gradient, are no sums over it
        losses = [trainings.losses_of(tmp_path / folder / name) for folder in ("parts", "whole")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3), name
        assert (parts[name] - weights).norm() < 1e-2 * weights.norm(), name
