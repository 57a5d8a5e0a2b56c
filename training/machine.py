"""What machine this is: its name, what it multiplies a second, whether bf16 is fast on it."""

import ctypes
import platform
import time
from pathlib import Path

import torch
from vqlm.training.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def best_device() -> torch.device:
    """The accelerator that torch finds, or the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def usable_device(device: torch.device | str) -> torch.device:
    """The device, tried. Raises UserError for one that this machine lacks."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has one for each kind of device
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"device {str(device)!r} is not to be had here ({reason}); leave it out for the best."
        ) from None


def is_bf16_fast(device: torch.device) -> bool:
    """Whether the device has bf16 matrix instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("sve_bf16"))
    return False


def keep_freed_memory() -> None:
    """Ask glibc to keep freed pages, 2 GB and more, for the whole process: a training step allocates the same large
    tensors every time, as does every batch that is drawn, and returning them to the system costs a page fault each.
    Elsewhere it does nothing. See `return_freed_memory`."""
    if (libc := _glibc()) is not None:
        if not libc.mallopt(M_MMAP_THRESHOLD, 2**30):
            libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that an older one takes
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Give what `keep_freed_memory` has kept until now back to the system, which counts it as used."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def matrix_peak(dtype: torch.dtype, device: torch.device, seconds: float = 1.0) -> float:
    """The best rate of square matrix products, in GFLOPS."""
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


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
