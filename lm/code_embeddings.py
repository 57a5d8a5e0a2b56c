"""The start of the code embeddings, and the neighbours of each code in the codebook, which look alike."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from vqlm.data_prep.vocabulary import Vocabulary

NUM_NEIGHBORS = 64
TEMPERATURE = 0.5  # times the mean squared distance from a code to the nearest other
CHUNK = 1024
# The weight of the projected codebook vector in a new row; the rest of its variance is the row's random start.
CODEBOOK_SHARE = 0.8


class SimilarCodes(NamedTuple):
    """codes: (K, n), the nearest of each code, itself included; weights: (K, n), rows that sum to 1."""

    codes: Int[Tensor, "k n"]
    weights: Float[Tensor, "k n"]


@torch.no_grad()
def similar_codes(codebook: Float[Tensor, "k d"]) -> SimilarCodes:
    """The nearest codes of each code, weighted by softmax(-squared distance / temperature).

    The temperature is half the mean squared distance between a code and the nearest other, whatever the codebook's
    scale. Memory is that of `CHUNK` rows of distances and of the result.
    """
    size = min(NUM_NEIGHBORS, len(codebook))
    nearest = [torch.cdist(part, codebook).topk(size, largest=False) for part in codebook.float().split(CHUNK)]
    squared = torch.cat([part.values for part in nearest]).square()
    scale = squared[:, 1].mean() if size > 1 else squared.new_ones(())
    weights = (-squared / (TEMPERATURE * scale).clamp(min=1e-12)).softmax(-1)
    return SimilarCodes(torch.cat([part.indices for part in nearest]), weights)


@torch.no_grad()
def initialize_code_embeddings(model: PreTrainedModel, vocabulary: Vocabulary, codebook: Float[Tensor, "k d"]) -> None:
    """Start the embeddings of image codes near one another where the codes are, at the scale that they had.

    The standardised codebook goes through a random projection, the same one for input and output embeddings.
    """
    image = slice(vocabulary.image.offset, vocabulary.image.stop)
    matrices = embedding_matrices(model)
    projected = project_codebook(codebook, matrices[0].shape[1])
    for matrix in matrices:
        rows = matrix[image]  # (K, hidden), a view
        rows.copy_(CODEBOOK_SHARE * projected.to(rows) * rows.std() + (1 - CODEBOOK_SHARE**2) ** 0.5 * rows)


def embedding_matrices(model: PreTrainedModel) -> list[Tensor]:
    """The weights (V, hidden) of the input embedding and of the output embedding; tied ones are one."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    weights = [module.weight for module in ends if module is not None]
    return list({id(weight): weight for weight in weights if isinstance(weight, Tensor)}.values())


def project_codebook(codebook: Float[Tensor, "k d"], width: int) -> Float[Tensor, "k h"]:
    """The codebook, every channel of mean 0 and variance 1, through a random projection that keeps the variance."""
    projection = torch.randn(codebook.shape[1], width) / codebook.shape[1] ** 0.5
    spread = codebook.std(0, correction=0).clamp(min=1e-6)
    return ((codebook - codebook.mean(0)) / spread) @ projection.to(codebook)
