"""The small form of `make chaos`: a training killed at random moments ends with the weights of an undisturbed run."""

import importlib.util
import random
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path):
    spec = importlib.util.spec_from_file_location("chaos", CHAOS)
    chaos = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chaos)
    assert chaos.chaos(tmp_path, kills=3, steps=60, processes=1, draw=random.Random(0), stages=("train-vq",))
