"""Whether torch.compile works, and why not."""

import torch

from vqlm.training.machine.compiling import compile_failure

CPU = torch.device("cpu")


def test_compiling_works_or_says_why(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    assert compile_failure(CPU) is None

    def broken(*_, **__):
        raise RuntimeError("Python.h: No such file or directory\nand a page more")

    monkeypatch.setattr(torch, "compile", broken)
    assert compile_failure(CPU) == "RuntimeError: Python.h: No such file or directory"
