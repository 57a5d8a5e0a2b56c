"""Nearest-neighbour search in a codebook. Knows vectors and rows, nothing of pictures or training."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# A tile of distances this large stays in a core's cache; the full N x K matrix would not.
TILE_ELEMENTS = 512 * 1024
MAX_CODES_PER_TILE = 8192
# Below this many vectors BLAS takes paths that round the products with equal rows differently.
MIN_VECTORS = 4


@torch.no_grad()
def nearest_codes(vectors: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """Index of the codebook row with the least L2 distance to each vector.

    Exact in fp32 whatever the autocast; equal rows go to the lowest index. Works in tiles, so that the
    N x K distance matrix never exists.

    vectors: (N, D), codebook: (K, D) -> (N,) int64.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        vectors, codebook = vectors.float(), codebook.float()
        count = vectors.shape[0]
        if 0 < count < MIN_VECTORS:
            vectors = vectors[[0] * (MIN_VECTORS - count) + list(range(count))]
        half_norms = codebook.square().sum(1) / 2  # argmin |z - e|^2 = argmin |e|^2 / 2 - z.e
        columns = min(codebook.shape[0], MAX_CODES_PER_TILE)
        rows = max(1, TILE_ELEMENTS // columns)
        codes = torch.empty(vectors.shape[0], dtype=torch.int64, device=vectors.device)
        for start in range(0, vectors.shape[0], rows):
            codes[start : start + rows] = _search(vectors[start : start + rows], codebook, half_norms, columns)
    return codes[codes.shape[0] - count :]


def _search(chunk: Tensor, codebook: Tensor, half_norms: Tensor, columns: int) -> Tensor:
    best, codes = None, None
    for start in range(0, codebook.shape[0], columns):
        tile = torch.addmm(half_norms[start : start + columns], chunk, codebook[start : start + columns].T, alpha=-1)
        distance, index = tile.min(1)
        if best is None or codes is None:
            best, codes = distance, index
        else:
            closer = distance < best  # strict: a tie keeps the lower index
            best, codes = torch.where(closer, distance, best), torch.where(closer, index + start, codes)
    assert codes is not None
    return codes
