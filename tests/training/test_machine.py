"""What is said of the machine, and whether it can compile."""

from types import SimpleNamespace

import pytest
import torch
import vqlm.training.machine
from vqlm.training.compiling import compile_failure
from vqlm.training.machine import describe_machine, is_bf16_fast, keep_freed_memory, matrix_peak, return_freed_memory

CPU = torch.device("cpu")


def test_the_peak_is_a_rate_that_a_processor_can_have():
    assert 0.01 < matrix_peak(torch.float32, CPU, seconds=0.01) < 1e6


def test_the_machine_is_described(monkeypatch):
    monkeypatch.setattr(
        vqlm.training.machine, "matrix_peak", lambda dtype, *_: 12.6 if dtype == torch.bfloat16 else 34.4
    )
    machine = describe_machine()
    assert list(machine) == ["processor", "threads", "device", "bf16_gflops", "fp32_gflops", "python", "torch"]
    assert (machine["bf16_gflops"], machine["fp32_gflops"]) == (13, 34)
    assert (machine["threads"], machine["torch"]) == (torch.get_num_threads(), torch.__version__)
    assert machine["processor"]


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [({}, False), ({"avx512_f": True}, False), ({"amx_bf16": True}, True), ({"avx512_bf16": True}, True)],
)
def test_bf16_is_fast_with_its_own_instructions(monkeypatch, capabilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert is_bf16_fast(CPU) is fast
    assert is_bf16_fast(torch.device("mps")) is False


def test_compiling_works_or_says_why(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    assert compile_failure(CPU) is None

    def broken(*_, **__):
        raise RuntimeError("Python.h: No such file or directory\nand a page more")

    monkeypatch.setattr(torch, "compile", broken)
    assert compile_failure(CPU) == "RuntimeError: Python.h: No such file or directory"


@pytest.mark.parametrize(("most", "taken"), [(2**31, 2**30), (2**25, 2**25)])
def test_an_older_glibc_keeps_what_it_can(monkeypatch, most, taken):
    kept = {}

    def mallopt(name, value):
        if name == vqlm.training.machine.M_MMAP_THRESHOLD and value > most:
            return 0
        kept[name] = value
        return 1

    monkeypatch.setattr(vqlm.training.machine, "_glibc", lambda: SimpleNamespace(mallopt=mallopt))
    keep_freed_memory()
    assert kept == {vqlm.training.machine.M_MMAP_THRESHOLD: taken, vqlm.training.machine.M_TRIM_THRESHOLD: 2**31 - 1}


def test_freed_memory_is_returned_or_nobody_is_asked(monkeypatch):
    returned = []
    with monkeypatch.context() as patched:
        patched.setattr(vqlm.training.machine, "_glibc", lambda: SimpleNamespace(malloc_trim=returned.append))
        return_freed_memory()
    assert returned == [0]
    monkeypatch.setattr(vqlm.training.machine.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(
        vqlm.training.machine.ctypes, "CDLL", lambda _name: pytest.fail("asked of a libc that is not glibc")
    )
    return_freed_memory()
    keep_freed_memory()
