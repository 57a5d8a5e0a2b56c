"""The choice of a device, and whether it multiplies bf16 fast."""

import pytest
import torch

from vqlm.training.errors import UserError
from vqlm.training.machine.device import is_bf16_fast, usable_device


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [({}, False), ({"avx512_f": True}, False), ({"amx_bf16": True}, True), ({"avx512_bf16": True}, True)],
)
def test_bf16_is_fast_with_its_own_instructions(monkeypatch, capabilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert is_bf16_fast(torch.device("cpu")) is fast
    assert is_bf16_fast(torch.device("mps")) is False


def test_a_device_that_this_machine_lacks_is_an_error_that_names_the_argument():
    assert usable_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="^`device` 'nonsense' is not available here .*; leave it out"):
        usable_device("nonsense")
