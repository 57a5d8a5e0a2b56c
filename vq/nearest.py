"""Nearest-neighbour search in a codebook. Knows vectors and rows, but neither pictures nor training."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

# A tile of distances this large stays in cache; the full N x K matrix would not.
TILE_ELEMENTS = 1024 * 1024
MAX_CODES_PER_TILE = 8192
# The minimum of a block costs far less than its index, so the index is computed in the winning block only.
BLOCK = 128


@torch.no_grad()
def nearest_codes(vectors: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """Index of the codebook row with the least L2 distance to each vector.

    Exact in fp32 whatever the autocast; equal rows go to the lowest index. Works in tiles, so that the
    N x K distance matrix never exists.

    vectors: (N, D), codebook: (K, D) -> (N,) int64.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        vectors, codebook = vectors.float(), codebook.float()
        half_norms = codebook.square().sum(1) / 2  # argmin |z - e|^2 = argmin |e|^2 / 2 - z.e
        block = min(len(codebook), BLOCK, MAX_CODES_PER_TILE)
        missing = -len(codebook) % block
        padded = F.pad(codebook, (0, 0, 0, missing)) if missing else codebook
        half_norms = F.pad(half_norms, (0, missing), value=torch.inf)
        columns = min(len(padded), MAX_CODES_PER_TILE)
        rows = min(max(1, TILE_ELEMENTS // columns), max(1, len(vectors)))
        tile = vectors.new_empty(rows * columns)  # one buffer for all tiles
        codes = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
        for start in range(0, len(vectors), rows):
            codes[start : start + rows] = _search(vectors[start : start + rows], padded, half_norms, tile, block)
        lowest = _lowest_equal_row(codebook)
    return codes if lowest is None else lowest[codes]


def _search(chunk: Tensor, codebook: Tensor, half_norms: Tensor, tile: Tensor, block: int) -> Tensor:
    count, winners = len(chunk), []
    for start in range(0, len(codebook), MAX_CODES_PER_TILE):
        part = codebook[start : start + MAX_CODES_PER_TILE]
        distances = tile[: count * len(part)].view(count, len(part))
        torch.addmm(half_norms[start : start + len(part)], chunk, part.T, alpha=-1, out=distances)
        blocks = distances.view(count, -1, block)
        winner = blocks.amin(2).argmin(1)
        distance, index = blocks[torch.arange(count, device=chunk.device), winner].min(1)
        winners.append((distance, winner * block + index + start))
    best, codes = winners[0]
    for distance, index in winners[1:]:
        closer = distance < best  # strict: a tie keeps the lower index
        best, codes = torch.where(closer, distance, best), torch.where(closer, index, codes)
    return codes


def _lowest_equal_row(codebook: Tensor) -> Tensor | None:
    """(K,) index of the first row equal to each row, or None where all rows differ.

    Needed because a matrix product may round its columns differently, so that equal rows are not equally far.
    """
    hashes = torch.zeros(len(codebook), dtype=torch.int64, device=codebook.device)
    for number, column in enumerate(codebook.T):  # one at a time: a large codebook is not copied as a whole
        hashes += (column + 0.0).view(torch.int32).long() * (2 * number + 0x9E3779B97F4A7C1)  # -0.0 becomes 0.0
    if hashes.unique().numel() == len(codebook):  # no two rows share one
        return None
    _, group = torch.unique(codebook, dim=0, return_inverse=True)
    rows = torch.arange(codebook.shape[0], device=codebook.device)
    return torch.full_like(rows, codebook.shape[0]).scatter_reduce_(0, group, rows, "amin")[group]
