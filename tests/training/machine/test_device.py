"""The choice of a device, and whether it multiplies bf16 fast."""

import pytest
import torch

from vqlm.training.errors import UserError
from vqlm.training.machine.device import is_bf16_fast, set_tf32, usable_device


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


def test_tf32_is_what_was_asked_for_or_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    asked = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    for is_used, precision in ((True, "high"), (False, "highest")):
        set_tf32(is_used, torch.device("cuda"))
        assert (asked.pop(), torch.backends.cudnn.allow_tf32) == (precision, is_used)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for device in ("cuda", "cpu", "mps"):
        set_tf32(False, torch.device(device))
        with pytest.raises(UserError, match="`tf32` has no effect here: it needs a GPU of CUDA from Ampere on"):
            set_tf32(True, torch.device(device))
    assert asked == []
