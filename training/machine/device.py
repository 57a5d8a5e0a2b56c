"""Which device computes, and in which precisions."""

from typing import Literal

import torch

from vqlm.training.errors import UserError

Precision = Literal["bf16", "fp16", "no"]

# Volta, the first with matrix instructions for fp16.
FP16_CAPABILITY = (7, 0)
# Ampere, the first with TF32.
TF32_CAPABILITY = (8, 0)


def best_device() -> torch.device:
    """The accelerator that torch finds, or the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def training_device() -> torch.device:
    """The kind of device that training and preparing use: the CPU where the launcher says so, else the best one.

    It only looks. accelerate's own state would choose too, and could not be told the number of processes afterwards.
    """
    from accelerate.utils import parse_flag_from_env  # here, so that opening a model does not load accelerate

    return torch.device("cpu") if parse_flag_from_env("ACCELERATE_USE_CPU") else best_device()


def usable_device(device: torch.device | str) -> torch.device:
    """The device, after a first tensor on it. Raises UserError for one that this machine lacks."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # torch has one for each kind
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


def is_fp16_fast(device: torch.device) -> bool:
    """Whether the device is a GPU with fp16 matrix instructions."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP16_CAPABILITY


def fastest_precision(device: torch.device) -> Precision:
    """bf16 where it is fast; else fp16 where that is; else "no"."""
    if is_bf16_fast(device):
        return "bf16"
    return "fp16" if is_fp16_fast(device) else "no"


def require_precision(precision: str, device: torch.device) -> None:
    """Raises UserError for a precision that `device` lacks, or has in emulation only."""
    if precision == "fp16" and device.type == "cpu":
        raise UserError("`mixed_precision` fp16 needs a GPU, and this runs on the CPU; set it to bf16, no or auto.")
    if precision == "bf16" and device.type == "cuda" and not is_bf16_fast(device):
        name = torch.cuda.get_device_name(device)
        raise UserError(f"`mixed_precision` bf16 is not in the hardware of {name}; set it to fp16, no or auto.")


def set_tf32(is_used: bool, device: torch.device) -> None:
    """Whether products and convolutions of fp32 values are computed in TF32, in the whole process.

    Raises UserError where it has no effect.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= TF32_CAPABILITY:
        torch.set_float32_matmul_precision("high" if is_used else "highest")
        torch.backends.cudnn.allow_tf32 = is_used
    elif is_used:
        raise UserError("`tf32` has no effect here: it needs a GPU of CUDA from Ampere on; leave it out.")
