"""Whether torch.compile can work here."""

import shutil

import torch
from torch.utils._triton import has_triton


def can_compile(device: torch.device) -> bool:
    """On a CPU torch.compile needs a C++ compiler, on CUDA it needs Triton."""
    if device.type == "cpu":
        return shutil.which("g++") is not None or shutil.which("clang++") is not None
    return device.type == "cuda" and has_triton()
