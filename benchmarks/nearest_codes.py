"""How fast is the exact codebook search? Tiled against the plain N x K distance matrix, in one run.

    python benchmarks/nearest_codes.py

Prints the machine, the versions, the date and a table; compare within one run only.
"""

import datetime
import statistics
import time

import torch

from training.machine import describe_machine, keep_freed_memory
from vq.nearest import nearest_codes

VECTORS = 65536
SIZES = ((1024, 16), (1024, 64), (16384, 8))
REPEATS = 5


def plain(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    return torch.cdist(vectors, codebook).argmin(1)


def main() -> None:
    keep_freed_memory()
    print(f"{datetime.date.today()}  {describe_machine()}\n")
    print(
        f"| K | D | tiled, s (median of {REPEATS}) | plain, s | ratio | codes that differ |\n|---|---|---|---|---|---|"
    )
    for size, dim in SIZES:
        vectors, codebook = torch.randn(VECTORS, dim), torch.randn(size, dim)
        times: dict = {nearest_codes: [], plain: []}
        codes = {}
        for _ in range(REPEATS):
            for search, own in times.items():
                start = time.perf_counter()
                codes[search] = search(vectors, codebook)
                own.append(time.perf_counter() - start)
        tiled, matrix = (statistics.median(own) for own in times.values())
        differ = (codes[nearest_codes] != codes[plain]).sum().item()
        print(f"| {size} | {dim} | {tiled:.3f} | {matrix:.3f} | {matrix / tiled:.1f} | {differ} |", flush=True)


if __name__ == "__main__":
    main()
