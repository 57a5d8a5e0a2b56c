"""The interface of every quantizer: vectors in, codes and their vectors out, and losses."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn


class QuantizerOutput(NamedTuple):
    """The result of quantizing `z_e`.

    z_q: (B, D, *shape), the vectors of the codes; the gradient passes to z_e by the quantizer's estimator.
    codes: (B, *shape) int64, or (B, *shape, codes_per_position).
    losses: scalars by name, unweighted; see `Quantizer.loss_weights`.
    vectors: the vectors that the codes were chosen for, as `Quantizer.update` takes them: z_e; of a hierarchy those of
    all its levels, (B, D, n), in the order of its codes.
    """

    z_q: Float[Tensor, "b d *shape"]
    codes: Int[Tensor, "b *code_shape"]
    losses: dict[str, Tensor]
    vectors: Float[Tensor, "b d *vector_shape"]


class Quantizer(nn.Module, ABC):
    """The interface of all quantizers. Always computes in fp32, whatever the autocast.

    `forward` changes no state. A training step calls `update(output.vectors, output.codes)` after it.
    """

    codebook_size: int
    """Each code lies in [0, codebook_size)."""

    def forward(self, z_e: Float[Tensor, "b d *shape"]) -> QuantizerOutput:
        """(B, D, *shape) -> z_q (B, D, *shape), codes and losses."""
        with torch.autocast(z_e.device.type, enabled=False):
            return self.quantize(z_e.float())

    @abstractmethod
    def quantize(self, z_e: Float[Tensor, "b d *shape"]) -> QuantizerOutput:
        """`forward` in fp32."""

    @abstractmethod
    def encode(self, z_e: Float[Tensor, "b d *shape"]) -> Int[Tensor, "b *code_shape"]:
        """(B, D, *shape) -> codes only."""

    @abstractmethod
    def decode(self, codes: Int[Tensor, "b *code_shape"]) -> Float[Tensor, "b d *shape"]:
        """Codes -> their vectors (B, D, *shape), fp32. The inverse of `encode` on what `encode` returns."""

    def normalize(self, z_e: Float[Tensor, "b d *shape"]) -> Float[Tensor, "b d *shape"]:
        """z_e as it is compared with the codes' vectors, fp32."""
        return z_e.float()

    def by_codebook(self, codes: Int[Tensor, "b *code_shape"]) -> list[Int[Tensor, "b *shape"]]:
        """The codes of each codebook."""
        return [codes]

    def loss_weights(self) -> dict[str, float]:
        """The weight of each loss in training."""
        return {}

    def code_vectors(self) -> Float[Tensor, "k d"] | None:
        """(K, D), the vector of each code; None where a code by itself has no vector."""
        return None

    def initialize(self, z_e: Float[Tensor, "b d *shape"]) -> None:
        """Start from encoder outputs (B, D, *shape), the same on every process."""

    def update(self, vectors: Float[Tensor, "b d *vector_shape"], codes: Int[Tensor, "b *code_shape"]) -> int:
        """Change, after a training step, what gradients do not train. Returns how many codes were revived.

        Both arguments are those of `forward`'s result, of before the step.
        """
        return 0


def as_vectors(z_e: Float[Tensor, "b d *shape"]) -> Float[Tensor, "n d"]:
    """(B, D, *shape) -> (B * positions, D)."""
    return rearrange(z_e, "b d ... -> (b ...) d")
