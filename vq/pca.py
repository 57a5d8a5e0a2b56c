"""The linear baseline of a VQ-VAE: principal components, each coefficient in a few bits."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vqlm.training.errors import UserError
from vqlm.vq.nearest import nearest_codes
from vqlm.vq.quantizers.vector import kmeans

KMEANS_ITERATIONS = 10
MAX_COMPONENT_BITS = 10


@dataclass
class PCA:
    """Principal components of pictures of one shape.

    mean: (F,), F numbers per picture. components: (k, F), orthonormal, the largest variance first.
    coefficients: (N, k) of the pictures it was fitted to.
    """

    shape: torch.Size
    mean: Float[Tensor, " f"]
    components: Float[Tensor, "k f"]
    coefficients: Float[Tensor, "n k"]

    @classmethod
    def fit(cls, pixel_values: Float[Tensor, "n c *shape"], num_components: int) -> "PCA":
        """The `num_components` first components, or as many as there can be, by torch.pca_lowrank."""
        flat = pixel_values.flatten(1)
        number = min(num_components, *flat.shape)
        mean = flat.mean(0)
        _, _, components = torch.pca_lowrank(flat - mean, q=number, center=False)
        return cls(pixel_values.shape[1:], mean, components.T.contiguous(), (flat - mean) @ components)

    def eigen_pictures(self, number: int) -> Float[Tensor, "n c *shape"]:
        """The first components as pictures in [-1, 1], each scaled to use that range."""
        chosen = self.components[:number]
        return (chosen / chosen.abs().amax(1, keepdim=True)).unflatten(1, self.shape)

    def with_bits(self, bits: int) -> "QuantizedPCA":
        """A code of `bits` bits per picture, spread over the components so that the error is least.

        Each next bit goes to the component whose error is largest, where a bit quarters it (reverse water-filling;
        Cover and Thomas, section 10.3.3), up to 10 bits each. The levels of a component are the k-means of its
        coefficients.
        """
        if bits < 1:
            raise UserError(f"bits must be at least 1, found {bits}.")
        error = self.coefficients.var(0)
        widths = torch.zeros(len(error), dtype=torch.int64)
        for _ in range(min(bits, MAX_COMPONENT_BITS * len(error))):
            widest = error.argmax()
            widths[widest] += 1
            error[widest] = error[widest] / 4 if widths[widest] < MAX_COMPONENT_BITS else -1.0
        kept = widths.nonzero().squeeze(1).tolist()
        return QuantizedPCA(self, kept, [self._levels(index, int(widths[index])) for index in kept])

    def _levels(self, component: int, bits: int) -> Float[Tensor, " levels"]:
        values = self.coefficients[:, component : component + 1]
        start = values.quantile((torch.arange(2**bits) + 0.5) / 2**bits).unsqueeze(1)
        return kmeans(values, start, KMEANS_ITERATIONS).squeeze(1)


@dataclass
class QuantizedPCA:
    """levels[i]: (any number,) the values that the coefficient of component `kept[i]` may take."""

    pca: PCA
    kept: list[int]
    levels: list[Tensor]

    def encode(self, pixel_values: Float[Tensor, "b c *shape"]) -> Int[Tensor, "b m"]:
        """The nearest level of each kept coefficient."""
        values = (pixel_values.flatten(1) - self.pca.mean) @ self.pca.components[self.kept].T
        columns = zip(values.unbind(1), self.levels, strict=True)
        return torch.stack([nearest_codes(value.unsqueeze(1), level.unsqueeze(1)) for value, level in columns], 1)

    def decode(self, codes: Int[Tensor, "b m"]) -> Float[Tensor, "b c *shape"]:
        """The pixel values of the levels, clamped to [-1, 1]."""
        values = torch.stack([level[code] for code, level in zip(codes.unbind(1), self.levels, strict=True)], 1)
        flat = self.pca.mean + values @ self.pca.components[self.kept]
        return flat.unflatten(1, self.pca.shape).clamp(-1, 1)
