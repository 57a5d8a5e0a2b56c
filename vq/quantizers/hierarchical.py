"""A hierarchy of levels, each with a codebook: few codes for the whole, many for the detail (VQ-VAE-2)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqlm.training.errors import UserError
from vqlm.vq.layers import CONV, PatchShuffle, ResidualBlock
from vqlm.vq.quantizers.base import Quantizer, QuantizerOutput
from vqlm.vq.quantizers.settings import HierarchicalConfig, plain_config
from vqlm.vq.quantizers.vector import VectorQuantizer


class HierarchicalQuantizer(Quantizer):
    """Levels of codes over the encoder's features, the lower ones knowing the higher.

    Going up, each level halves the features of the one below. Coming down, the top level is quantized from its
    features; every level below it from its features beside the context, which is what a decoder makes of the codes
    above. The picture's decoder takes the lowest level's vectors beside their context.

    Codes are (B, n): all of the top level row by row, then the next level's, down to the lowest. That order is a
    sequence for a language model, in which each code follows those that it was conditioned on. Pictures of another
    size than `positions` stands for are refused, because n alone does not determine their shape.
    """

    def __init__(self, config: HierarchicalConfig, positions: tuple[int, ...]):
        super().__init__()
        self.config, self.codebook_size = config, config.codebook_size
        self.level_shapes = config.level_shapes(positions)
        dims, width, depth = len(positions), config.level_channels, config.level_residual_layers
        conv, below = CONV[dims], range(config.num_levels - 1)
        blocks = [[ResidualBlock(width, None, dims) for _ in range(depth)] for _ in range(2 * len(below))]
        # Lists run from the top level down, as the codes do.
        self.quantizers = nn.ModuleList(VectorQuantizer(plain_config(config)) for _ in self.level_shapes)
        self.to_level_above = nn.ModuleList(
            nn.Sequential(conv(width, width, 2, stride=2), *blocks[level]) for level in below
        )
        self.to_codes = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, width if level == 0 else 2 * width),
                conv(width if level == 0 else 2 * width, config.codebook_dim, 1),
            )
            for level in range(config.num_levels)
        )
        self.to_context = nn.ModuleList(
            nn.Sequential(
                conv(config.codebook_dim if level == 0 else config.decoder_dim, width, 3, padding=1),
                *blocks[len(below) + level],
                conv(width, width * 2**dims, 3, padding=1),
                PatchShuffle(2, dims),
            )
            for level in below
        )

    def forward(self, z_e: Float[Tensor, "b d *shape"]) -> QuantizerOutput:
        return self.quantize(z_e)  # the networks between the levels keep the autocast; each codebook leaves it

    def quantize(self, z_e: Float[Tensor, "b d *shape"]) -> QuantizerOutput:
        """Losses: the codebook and commitment losses, summed over levels."""
        z_q, parts = None, []
        for level, features in enumerate(self._features(z_e)):
            context = self._context(level, z_q)
            parts.append(self._quantizers[level](self._to_codes(level, features, context)))
            z_q = _join(parts[-1].z_q, context)
        assert z_q is not None
        losses = {name: torch.stack([part.losses[name] for part in parts]).sum() for name in parts[0].losses}
        codes = torch.cat([part.codes.flatten(1) for part in parts], 1)
        return QuantizerOutput(z_q, codes, losses, torch.cat([part.vectors.flatten(2) for part in parts], 2))

    def encode(self, z_e: Float[Tensor, "b d *shape"]) -> Int[Tensor, "b n"]:
        return self.quantize(z_e).codes

    def decode(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b d *shape"]:
        z_q = None
        for level, part in enumerate(self.by_codebook(codes)):
            z_q = _join(self._quantizers[level].decode(part), self._context(level, z_q))
        assert z_q is not None
        return z_q

    def by_codebook(self, codes: Int[Tensor, "b n"]) -> list[Int[Tensor, "b *shape"]]:
        """(B, n) -> the codes of each level in their places, the top level first."""
        parts = codes.split([math.prod(shape) for shape in self.level_shapes], 1)
        return [part.view(len(codes), *shape) for part, shape in zip(parts, self.level_shapes, strict=True)]

    def loss_weights(self) -> dict[str, float]:
        return self._quantizers[0].loss_weights()

    @torch.no_grad()
    def initialize(self, z_e: Float[Tensor, "b d *shape"]) -> None:
        z_q = None
        for level, features in enumerate(self._features(z_e)):
            context, quantizer = self._context(level, z_q), self._quantizers[level]
            seen = self._to_codes(level, features, context)
            quantizer.initialize(seen)
            z_q = _join(quantizer.decode(quantizer.encode(seen)), context)

    @torch.no_grad()
    def update(self, vectors: Float[Tensor, "b d n"], codes: Int[Tensor, "b n"]) -> int:
        sizes = [math.prod(shape) for shape in self.level_shapes]
        levels = zip(self._quantizers, vectors.split(sizes, 2), codes.split(sizes, 1), strict=True)
        return sum(quantizer.update(seen, part) for quantizer, seen, part in levels)

    @property
    def _dtype(self) -> torch.dtype:
        """Of the networks between the levels."""
        return next(self.to_codes.parameters()).dtype

    @property
    def _quantizers(self) -> list[VectorQuantizer]:
        return list(self.quantizers)  # type: ignore[arg-type]

    def _features(self, z_e: Tensor) -> list[Tensor]:
        """The encoder's features and those of the levels above it, the top level first."""
        if z_e.shape[2:] != self.level_shapes[-1]:
            raise UserError(
                f"A hierarchy takes pictures of the size it was built for, {tuple(self.level_shapes[-1])} positions; "
                f"found {tuple(z_e.shape[2:])}."
            )
        features = [z_e.to(self._dtype)]
        for step in reversed(self.to_level_above):  # type: ignore[arg-type]
            features.insert(0, step(features[0]))
        return features

    def _context(self, level: int, z_q_above: Tensor | None) -> Tensor | None:
        return None if z_q_above is None else self.to_context[level - 1](z_q_above.to(self._dtype))

    def _to_codes(self, level: int, features: Tensor, context: Tensor | None) -> Tensor:
        return self.to_codes[level](_join(features, context)).float()


def _join(first: Tensor, context: Tensor | None) -> Tensor:
    return first if context is None else torch.cat([first, context.to(first.dtype)], 1)
