"""The examples in the docstrings of public callables run and print what they say."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["collection", "loading", "preparation", "prepared_set", "vocabulary"])
def test_the_examples_of_a_module(name):
    results = doctest.testmod(importlib.import_module(f"vqlm.data_prep.{name}"))
    assert results.attempted > 0
    assert results.failed == 0
