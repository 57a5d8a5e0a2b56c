"""How fast is the exact codebook search, and how much memory does it take, against vector-quantize-pytorch?

    python benchmarks/nearest_codes.py

The peer is the forward of `vector_quantize_pytorch.VectorQuantize` in evaluation mode, with the same codebook, in turns
with ours. Memory is the peak of the process above what it held before, as Linux counts it. The peer is left out where
its distances would take more than `PEER_LIMIT`. Needs the extra `bench`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from measure import Report, Spread, choose, in_turns, memory_megabytes, parser, peak_megabytes, ratio
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from vqlm.vq.nearest import nearest_codes

PEER_LIMIT = 5e9  # bytes of its N x K distances in fp32; it holds several times as much
OURS, PEER = "here", "vector-quantize-pytorch"


class Settings(NamedTuple):
    """sizes: pairs of K and D; the curve is drawn over the K of those with the last D."""

    vectors: int = 65536
    sizes: tuple[tuple[int, int], ...] = (
        (1024, 16), (1024, 64), (256, 8), (1024, 8), (4096, 8), (16384, 8), (65536, 8), (262144, 8),
    )  # fmt: skip
    rounds: int = 5


QUICK = Settings(8192, ((1024, 16), (256, 8), (4096, 8), (16384, 8)), 3)
TINY = Settings(64, ((16, 4), (32, 4)), 1)


@torch.no_grad()
def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__).parse_args(arguments)
    settings = choose(options, Settings(), QUICK, TINY)
    report = Report("nearest_codes", __doc__, options, [PEER])
    table = report.table(
        f"Nearest of K codes of D numbers to {settings.vectors:,} vectors, fp32",
        ["K", "D", "here, s", "peak, MB", "peer, s", "peak, MB", "peer / here", "codes that differ"],
    )
    grown: dict[str, list] = {OURS: [], PEER: []}
    for size, dim in settings.sizes:
        vectors, codebook = torch.randn(settings.vectors, dim), torch.randn(size, dim)
        searches = searches_of(vectors, codebook)
        codes = {name: search() for name, search in searches.items()}
        memory: dict[str, list[float]] = {name: [] for name in searches}
        tasks = {name: functools.partial(_watched, search, memory[name]) for name, search in searches.items()}
        timings = in_turns(tasks, settings.rounds)
        cells: list = [Spread.of(timings[OURS]), max(memory[OURS]), None, None, None, None]
        if PEER in searches:
            differ = int((codes[OURS] != codes[PEER]).sum())
            cells[2:] = [Spread.of(timings[PEER]), max(memory[PEER]), ratio(timings[PEER], timings[OURS]), differ]
        table.row(size, dim, *cells)
        if dim == settings.sizes[-1][1]:
            for name, seconds in timings.items():
                grown[name].append((size, Spread.of(settings.vectors / value for value in seconds)))
    report.plot("codebook", "Nearest codes by the size of the codebook", "K", "vectors/s", grown)
    return report.save()


def searches_of(vectors: Tensor, codebook: Tensor) -> dict[str, Callable[[], Tensor]]:
    searches: dict[str, Callable[[], Tensor]] = {OURS: functools.partial(nearest_codes, vectors, codebook)}
    if 4.0 * len(vectors) * len(codebook) <= PEER_LIMIT:
        peer = VectorQuantize(dim=codebook.shape[1], codebook_size=len(codebook)).eval()
        peer._codebook.embed.copy_(codebook.unsqueeze(0))
        searches[PEER] = lambda: peer(vectors.unsqueeze(0))[1].squeeze(0)
    return searches


def _watched(search: Callable[[], Tensor], memory: list[float]) -> float:
    """Seconds of one search; its peak in MB is appended to `memory`."""
    before = memory_megabytes(reset_peak=True)
    (seconds,) = in_turns({"": search}, 1, warm_up=0)[""]
    memory.append(max(0.0, peak_megabytes() - before))
    return seconds


if __name__ == "__main__":
    main()
