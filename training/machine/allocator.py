"""glibc's allocator: whether freed memory stays with the process or returns to the system."""

import ctypes
import platform
from collections.abc import Callable
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Ask glibc to keep up to 2 GB of freed pages for the whole process; without glibc, do nothing.

    Each training step and each batch of drawn pictures allocates the same large tensors again. Returning their pages to
    the system would cost a page fault for each. See `return_freed_memory`.
    """
    if (libc := _glibc()) is not None:
        if not libc.mallopt(M_MMAP_THRESHOLD, 2**30):
            libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that an older glibc takes
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Return the pages that `keep_freed_memory` kept to the system, which otherwise counts them as used."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def memory_taken(function: Callable[[], object]) -> int | None:
    """Bytes by which this process grows at most while `function` runs, freed memory that is kept included; None where
    the system does not tell."""
    before = memory_held()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    except OSError:
        return None
    function()
    return None if before is None else _status("VmHWM") - before


def memory_held() -> int | None:
    """Bytes of memory that this process takes without what it has freed; None where the system does not tell."""
    return_freed_memory()
    return _status("VmRSS") if Path("/proc/self/status").exists() else None


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
