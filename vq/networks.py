"""Encoders and decoders, in one, two or three spatial dimensions. Know nothing of codes.

Every encoder maps (B, C, *input_shape) to (B, codebook_dim, *code_shape), every decoder maps it back.
"""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vq.config import NetworkConfig

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
UNFOLD = {
    1: "b (c p) x -> b c (x p)",
    2: "b (c p q) x y -> b c (x p) (y q)",
    3: "b (c p q r) x y z -> b c (x p) (y q) (z r)",
}


class PatchShuffle(nn.Module):
    """Channels to space: (B, C * factor**dims, *shape) -> (B, C, *shape * factor). Pixel shuffle for any dimension."""

    def __init__(self, factor: int, spatial_dims: int):
        super().__init__()
        self.pattern = UNFOLD[spatial_dims]
        self.sizes = dict.fromkeys("pqr"[:spatial_dims], factor)
        self.factor = factor if spatial_dims == 2 else None

    def forward(self, hidden: Tensor) -> Tensor:
        if self.factor:  # the same mapping as the pattern, as one kernel
            return F.pixel_shuffle(hidden, self.factor)
        return rearrange(hidden, self.pattern, **self.sizes)


class ResidualBlock(nn.Module):
    """x + 1x1(SiLU(3x3(norm(x)))), normalised over all channels and positions."""

    def __init__(self, channels: int, residual_channels: int | None, spatial_dims: int):
        super().__init__()
        conv, width = CONV[spatial_dims], residual_channels or channels
        self.norm = nn.GroupNorm(1, channels)
        self.conv_in = conv(channels, width, 3, padding=1)
        self.conv_out = conv(width, channels, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.conv_out(F.silu(self.conv_in(self.norm(hidden))))


class PaperResidualBlock(nn.Module):
    """x + 1x1(ReLU(3x3(ReLU(x)))), van den Oord et al. 2017, section 4.1."""

    def __init__(self, channels: int, residual_channels: int | None, spatial_dims: int):
        super().__init__()
        conv, width = CONV[spatial_dims], residual_channels or channels
        self.conv_in = conv(channels, width, 3, padding=1)
        self.conv_out = conv(width, channels, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.conv_out(F.relu(self.conv_in(F.relu(hidden))))


def patch_encoder(config: NetworkConfig, codebook_dim: int) -> nn.Sequential:
    """A convolution without overlap into each level, then its residual blocks."""
    dims, conv, width_in = config.spatial_dims, CONV[config.spatial_dims], config.in_channels
    layers: list[nn.Module] = []
    for stride, width in zip(config.strides, _level_widths(config), strict=True):
        layers.append(conv(width_in, width, stride, stride=stride))
        layers += [ResidualBlock(width, config.residual_channels, dims) for _ in range(config.num_residual_layers)]
        width_in = width
    return nn.Sequential(*layers, nn.GroupNorm(1, width_in), conv(width_in, codebook_dim, 1))


def patch_decoder(config: NetworkConfig, codebook_dim: int) -> nn.Sequential:
    """The encoder's levels backwards, each left by a patch shuffle."""
    dims, conv, widths = config.spatial_dims, CONV[config.spatial_dims], _level_widths(config)
    widths_out = [config.in_channels, *widths[:-1]]
    layers: list[nn.Module] = [conv(codebook_dim, widths[-1], 3, padding=1)]
    for stride, width, width_out in reversed(list(zip(config.strides, widths, widths_out, strict=True))):
        layers += [ResidualBlock(width, config.residual_channels, dims) for _ in range(config.num_residual_layers)]
        layers += [conv(width, width_out * stride**dims, 3, padding=1), PatchShuffle(stride, dims)]
    return nn.Sequential(*layers)


def paper_encoder(config: NetworkConfig, codebook_dim: int) -> nn.Sequential:
    """4x4 convolutions of stride 2 with ReLU, a 3x3 convolution, the residual stack, 1x1 to the codebook's width."""
    dims, conv, width_in = config.spatial_dims, CONV[config.spatial_dims], config.in_channels
    layers: list[nn.Module] = []
    for width in _level_widths(config):
        layers += [conv(width_in, width, 4, stride=2, padding=1), nn.ReLU()]
        width_in = width
    layers.append(conv(width_in, width_in, 3, padding=1))
    layers += [PaperResidualBlock(width_in, config.residual_channels, dims) for _ in range(config.num_residual_layers)]
    return nn.Sequential(*layers, nn.ReLU(), conv(width_in, codebook_dim, 1))


def paper_decoder(config: NetworkConfig, codebook_dim: int) -> nn.Sequential:
    """A 3x3 convolution, the residual stack, 4x4 transposed convolutions of stride 2."""
    dims, conv, up = config.spatial_dims, CONV[config.spatial_dims], CONV_TRANSPOSE[config.spatial_dims]
    widths = _level_widths(config)
    layers: list[nn.Module] = [conv(codebook_dim, widths[-1], 3, padding=1)]
    layers += [
        PaperResidualBlock(widths[-1], config.residual_channels, dims) for _ in range(config.num_residual_layers)
    ]
    layers.append(nn.ReLU())
    for width, width_out in zip(widths[:0:-1], widths[-2::-1], strict=True):
        layers += [up(width, width_out, 4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, up(widths[0], config.in_channels, 4, stride=2, padding=1))


def _level_widths(config: NetworkConfig) -> list[int]:
    return [config.stem_channels] * (len(config.strides) - 1) + [config.hidden_channels]


ENCODERS = {"patch": patch_encoder, "paper": paper_encoder}
DECODERS = {"patch": patch_decoder, "paper": paper_decoder}
