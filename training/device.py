"""Which device computes, and whether it multiplies bf16 fast."""

import torch
from vqlm.training.errors import UserError


def best_device() -> torch.device:
    """The accelerator that torch finds, or the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def usable_device(device: torch.device | str) -> torch.device:
    """The device, after a first tensor on it. Raises UserError for one that this machine lacks."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has one for each kind of device
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"`device` {str(device)!r} is not available here ({reason}); leave it out to get the fastest one."
        ) from None


def is_bf16_fast(device: torch.device) -> bool:
    """Whether the device has bf16 matrix instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("sve_bf16"))
    return False
