"""The peak of matrix products, and the machine's description."""

import torch

from vqlm.training.machine import matrix_peak as matrix_peak_file
from vqlm.training.machine.matrix_peak import describe_machine, matrix_peak


def test_the_peak_is_a_rate_that_a_processor_can_have():
    assert 0.01 < matrix_peak(torch.float32, torch.device("cpu"), seconds=0.01) < 1e6


def test_the_machine_is_described(monkeypatch):
    monkeypatch.setattr(matrix_peak_file, "matrix_peak", lambda dtype, *_: 12.6 if dtype == torch.bfloat16 else 34.4)
    machine = describe_machine()
    assert list(machine) == ["processor", "threads", "device", "bf16_gflops", "fp32_gflops", "python", "torch"]
    assert (machine["bf16_gflops"], machine["fp32_gflops"]) == (13, 34)
    assert (machine["threads"], machine["torch"]) == (torch.get_num_threads(), torch.__version__)
    assert machine["processor"]
