"""How fast is the exact codebook search, and how much memory does it take? Against vector-quantize-pytorch, in one run.

    python benchmarks/nearest_codes.py

Prints the machine, the versions, the date and a table; compare within one run only. The peer is
`vector_quantize_pytorch.VectorQuantize` with the same codebook, its forward in evaluation mode. Both are run in turns.
Memory is what the process holds at its peak beyond what it held before, as Linux counts it. A peer that would hold
more than `PEER_LIMIT` is left out. Needs the extra `dev`.
"""

import ctypes
import datetime
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from vector_quantize_pytorch import VectorQuantize

from training.machine import describe_machine
from vq.nearest import nearest_codes

VECTORS = 65536
SIZES = ((1024, 16), (1024, 64), (16384, 8), (262144, 8))
REPEATS = 5
PEER_LIMIT = 16e9  # bytes


def main() -> None:
    torch.set_grad_enabled(False)
    print(f"{datetime.date.today()}  {describe_machine()}")
    print(f"vector-quantize-pytorch {version('vector-quantize-pytorch')}; {VECTORS} vectors in fp32; seconds are ")
    print(f"medians of {REPEATS} (least to most)\n")
    print(
        "| K | D | here, s | MB | peer, s | MB | peer / here | codes that differ |\n|---|---|---|---|---|---|---|---|"
    )
    for size, dim in SIZES:
        vectors, codebook = torch.randn(VECTORS, dim), torch.randn(size, dim)
        peer = VectorQuantize(dim=dim, codebook_size=size).eval()
        peer._codebook.embed.copy_(codebook.unsqueeze(0))
        searches: dict[str, Callable[[], torch.Tensor]] = {
            "here": lambda v=vectors, c=codebook: nearest_codes(v, c),
            "peer": lambda v=vectors, p=peer: p(v.unsqueeze(0))[1].squeeze(0),
        }
        if 4.0 * VECTORS * size > PEER_LIMIT:
            del searches["peer"]
        codes = {name: search() for name, search in searches.items()}  # also warms up
        times: dict[str, list[float]] = {name: [] for name in searches}
        memory = dict.fromkeys(searches, 0.0)
        for _ in range(REPEATS):
            for name, search in searches.items():
                before = _peak_megabytes(reset=True)
                start = time.perf_counter()
                search()
                times[name].append(time.perf_counter() - start)
                memory[name] = max(memory[name], _peak_megabytes() - before)
        row = f"| {size} | {dim} | {_spread(times['here'])} | {memory['here']:.0f} "
        if "peer" in searches:
            ratio = statistics.median(times["peer"]) / statistics.median(times["here"])
            differ = (codes["here"] != codes["peer"]).sum().item()
            row += f"| {_spread(times['peer'])} | {memory['peer']:.0f} | {ratio:.1f} | {differ} |"
        else:
            row += "| | | | |"
        print(row, flush=True)


def _spread(times: list[float]) -> str:
    return f"{statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})"


def _peak_megabytes(reset: bool = False) -> float:
    """The most that this process has held since the last reset, in MB; 0 where Linux does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return 0.0
    if reset:
        ctypes.CDLL(None).malloc_trim(0)  # or the search would find what the last one left
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
