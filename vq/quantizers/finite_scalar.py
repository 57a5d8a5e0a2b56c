"""Finite scalar quantization: every channel is rounded to one of a few levels. No codebook, no losses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vqlm.vq.quantizers.base import Quantizer, QuantizerOutput
from vqlm.vq.quantizers.estimators import straight_through
from vqlm.vq.quantizers.settings import FSQConfig

SLACK = 1e-3  # the outermost levels are reached before the bound saturates


class FiniteScalarQuantizer(Quantizer):
    """Rounds each channel of z_e. The levels of a position are the digits of its code, the first channel lowest."""

    levels: Tensor
    place_values: Tensor

    def __init__(self, config: FSQConfig):
        super().__init__()
        self.codebook_size = config.codebook_size
        levels = torch.tensor(config.levels)
        self.register_buffer("levels", levels)
        self.register_buffer("place_values", levels.cumprod(0) // levels)

    def quantize(self, z_e: Float[Tensor, "b d *shape"]) -> QuantizerOutput:
        bounded = self._bound(z_e)
        digits = bounded.detach().round()
        z_q = straight_through(bounded / self._half_width(z_e), digits / self._half_width(z_e))
        return QuantizerOutput(z_q, self._codes(digits), {}, z_e)

    def encode(self, z_e: Float[Tensor, "b d *shape"]) -> Int[Tensor, "b *shape"]:
        return self._codes(self._bound(z_e.float()).round())

    def decode(self, codes: Int[Tensor, "b *shape"]) -> Float[Tensor, "b d *shape"]:
        half_width = self.levels // 2
        digits = codes.unsqueeze(-1) // self.place_values % self.levels
        return ((digits - half_width) / half_width).movedim(-1, 1)

    def code_vectors(self) -> Float[Tensor, "k d"]:
        return self.decode(torch.arange(self.codebook_size, device=self.levels.device))

    def _bound(self, z_e: Tensor) -> Tensor:
        """Within half a level of the outermost ones; zero stays zero. An even number of levels has one more below
        zero than above. (The paper's listing shifts by tan where the inverse of tanh is meant.)"""
        levels = _along_channels(self.levels, z_e)
        half_span = (levels - 1) * (1 + SLACK) / 2
        offset = (1 - levels % 2) / 2
        return torch.tanh(z_e + torch.atanh(offset / half_span)) * half_span - offset

    def _half_width(self, z_e: Tensor) -> Tensor:
        return _along_channels(self.levels // 2, z_e)

    def _codes(self, digits: Tensor) -> Tensor:
        """Whole numbers around zero, (B, D, *shape) -> (B, *shape)."""
        digits = digits.long() + _along_channels(self.levels // 2, digits)
        return (digits * _along_channels(self.place_values, digits)).sum(1)


def _along_channels(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 2))
