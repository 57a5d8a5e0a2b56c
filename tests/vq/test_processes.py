"""Two processes with half the batch each hold the codebook that one process with all of it would hold."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, SCRIPT, folder], cwd=Path(__file__).parents[2], capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_gathered_rows_are_in_rank_order_everywhere(ranks):
    for results in ranks:
        assert results["gathered"].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_the_sum_is_the_same_everywhere(ranks):
    for results in ranks:
        assert results["sum"].tolist() == [[1, 0], [1, 2]]


def test_one_codebook_revival_included(ranks):
    specification = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    two_processes = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(two_processes)
    alone = two_processes.train(rank=0, processes=1)
    assert sum(alone["revived"]) > 0
    for results in ranks:
        assert results["revived"] == alone["revived"]
        for name, tensor in alone["state"].items():
            assert torch.equal(results["state"][name], tensor), name
