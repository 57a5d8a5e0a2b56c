"""Nearest-neighbour search in a codebook. Knows vectors and rows, nothing of pictures or training."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# A tile of distances this large stays in cache; the full N x K matrix would not.
TILE_ELEMENTS = 512 * 1024
MAX_CODES_PER_TILE = 8192


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
        columns = min(codebook.shape[0], MAX_CODES_PER_TILE)
        rows = max(1, TILE_ELEMENTS // columns)
        tile = vectors.new_empty(rows, columns)  # one buffer for all tiles
        codes = torch.empty(vectors.shape[0], dtype=torch.int64, device=vectors.device)
        for start in range(0, vectors.shape[0], rows):
            codes[start : start + rows] = _search(vectors[start : start + rows], codebook, half_norms, tile)
        lowest = _lowest_equal_row(codebook)
    return codes if lowest is None else lowest[codes]


def _search(chunk: Tensor, codebook: Tensor, half_norms: Tensor, tile: Tensor) -> Tensor:
    best, codes, columns = None, None, tile.shape[1]
    for start in range(0, codebook.shape[0], columns):
        rows = codebook[start : start + columns]
        distances = tile[: chunk.shape[0], : rows.shape[0]]
        torch.addmm(half_norms[start : start + columns], chunk, rows.T, alpha=-1, out=distances)
        distance, index = distances.min(1)
        if best is None or codes is None:
            best, codes = distance, index
        else:
            closer = distance < best  # strict: a tie keeps the lower index
            best, codes = torch.where(closer, distance, best), torch.where(closer, index + start, codes)
    assert codes is not None
    return codes


def _lowest_equal_row(codebook: Tensor) -> Tensor | None:
    """(K,) index of the first row equal to each row, or None where all rows differ.

    Needed because a matrix product may round its columns differently, so that equal rows are not equally far.
    """
    bits = (codebook + 0.0).view(torch.int32).long()  # -0.0 becomes 0.0
    factors = 2 * torch.arange(codebook.shape[1], device=codebook.device) + 0x9E3779B97F4A7C1
    if (bits * factors).sum(1).unique().numel() == codebook.shape[0]:  # a hash of each row; no two rows share one
        return None
    _, group = torch.unique(codebook, dim=0, return_inverse=True)
    rows = torch.arange(codebook.shape[0], device=codebook.device)
    return torch.full_like(rows, codebook.shape[0]).scatter_reduce_(0, group, rows, "amin")[group]
