"""Whether torch.compile can work here."""

import shutil

import torch


def can_compile(device: torch.device) -> bool:
    """On a CPU torch.compile needs a C++ compiler, on CUDA it needs Triton."""
    if device.type == "cpu":
        return shutil.which("g++") is not None or shutil.which("clang++") is not None
    return device.type == "cuda" and torch.utils._triton.has_triton()
