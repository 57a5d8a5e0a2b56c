"""docs/trace.md is what happens."""

import doctest
from pathlib import Path

import torch

TRACE = Path(__file__).parents[2] / "docs" / "trace.md"


def test_every_value_of_the_trace_is_what_the_code_gives():
    try:
        result = doctest.testfile(str(TRACE), module_relative=False)
    finally:
        torch.set_printoptions(profile="default")
    assert result.attempted > 50
    assert result.failed == 0
