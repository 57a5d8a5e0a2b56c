"""The command that installs what is missing."""

from importlib import metadata

import pytest

from vqlm.training.extras import install_hint

REQUIRED = ["torch>=2", 'resvg-py>=0.2; extra == "svg"', "resvg-py>=0.2; extra == 'demo'", 'emoji>=2; extra == "demo"']


@pytest.mark.parametrize(
    ("required", "hint"),
    [
        (REQUIRED, 'pip install "resvg-py>=0.2"'),
        (["torch>=2"], "pip install -e '.[svg]'"),  # installed before there was this extra
        (None, "pip install -e '.[svg]'"),
    ],
)
def test_the_packages_of_an_extra(monkeypatch, required, hint):
    monkeypatch.setattr(metadata, "requires", lambda name: required)
    assert install_hint("svg") == hint


def test_a_checkout_on_the_path(monkeypatch):
    def fail(name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", fail)
    assert install_hint("svg") == "pip install -e '.[svg]'"
