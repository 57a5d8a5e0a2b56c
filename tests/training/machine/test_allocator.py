"""glibc keeps freed memory and returns it; other systems are left alone."""

from types import SimpleNamespace

import pytest

from vqlm.training.machine import allocator
from vqlm.training.machine.allocator import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory, return_freed_memory


@pytest.mark.parametrize(("most", "kept"), [(2**31, 2**30), (2**25, 2**25)])
def test_an_older_glibc_keeps_what_it_can(monkeypatch, most, kept):
    options = {}

    def mallopt(name, value):
        if name == M_MMAP_THRESHOLD and value > most:
            return 0
        options[name] = value
        return 1

    monkeypatch.setattr(allocator, "_glibc", lambda: SimpleNamespace(mallopt=mallopt))
    keep_freed_memory()
    assert options == {M_MMAP_THRESHOLD: kept, M_TRIM_THRESHOLD: 2**31 - 1}


def test_freed_memory_is_returned_where_glibc_is_and_nothing_is_loaded_elsewhere(monkeypatch):
    trimmed = []
    with monkeypatch.context() as patched:
        patched.setattr(allocator, "_glibc", lambda: SimpleNamespace(malloc_trim=trimmed.append))
        return_freed_memory()
    assert trimmed == [0]
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _name: pytest.fail("loaded a libc that is not glibc"))
    return_freed_memory()
    keep_freed_memory()
