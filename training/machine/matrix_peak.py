"""The peak rate of matrix products on this machine, and the machine's description in a report."""

import platform
import time
from pathlib import Path

import torch

from vqlm.training.machine.device import best_device


def matrix_peak(dtype: torch.dtype, device: torch.device, seconds: float = 1.0) -> float:
    """The best rate of square matrix products within `seconds`, in GFLOPS."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best / 1e9


def describe_machine(seconds: float = 1.0) -> dict:
    """Processor, accelerator, versions, and the bf16 and fp32 matrix peaks as measured now, for `seconds` each."""
    device = best_device()
    return {
        "processor": _processor_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "bf16_gflops": round(matrix_peak(torch.bfloat16, device, seconds)),
        "fp32_gflops": round(matrix_peak(torch.float32, device, seconds)),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
