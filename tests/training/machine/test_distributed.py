"""Without a process group both collectives are the identity; with one, see tests/vq/test_processes.py."""

import torch

from vqlm.training.machine.distributed import gather_rows, sum_over_processes


def test_alone_the_sum_and_the_rows_are_one_s_own():
    tensor = torch.randn(3, 5)
    before = tensor.clone()
    assert torch.equal(sum_over_processes(tensor), before)
    assert torch.equal(gather_rows(tensor), before)
