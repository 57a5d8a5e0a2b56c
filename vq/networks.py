"""Encoders and decoders, in one, two or three spatial dimensions. Know nothing of codes.

Every encoder maps (B, C, *input_shape) to (B, width_out, *code_shape), every decoder (B, width_in, *code_shape) back.
"""

from torch import nn

from vqlm.vq.layers import CONV, CONV_TRANSPOSE, PaperResidualBlock, PatchShuffle, ResidualBlock
from vqlm.vq.settings import NetworkConfig


def patch_encoder(config: NetworkConfig, width_out: int) -> nn.Sequential:
    """A convolution without overlap into each level, then its residual blocks."""
    dims, conv, width_in = config.spatial_dims, CONV[config.spatial_dims], config.in_channels
    layers: list[nn.Module] = []
    for stride, width in zip(config.strides, _level_widths(config), strict=True):
        layers.append(conv(width_in, width, stride, stride=stride))
        layers += [ResidualBlock(width, config.residual_channels, dims) for _ in range(config.num_residual_layers)]
        width_in = width
    return nn.Sequential(*layers, nn.GroupNorm(1, width_in), conv(width_in, width_out, 1))


def patch_decoder(config: NetworkConfig, width_in: int) -> nn.Sequential:
    """The encoder's levels backwards, each left by a patch shuffle."""
    dims, conv, widths = config.spatial_dims, CONV[config.spatial_dims], _level_widths(config)
    widths_out = [config.in_channels, *widths[:-1]]
    layers: list[nn.Module] = [conv(width_in, widths[-1], 3, padding=1)]
    for stride, width, width_out in reversed(list(zip(config.strides, widths, widths_out, strict=True))):
        layers += [ResidualBlock(width, config.residual_channels, dims) for _ in range(config.num_residual_layers)]
        layers += [conv(width, width_out * stride**dims, 3, padding=1), PatchShuffle(stride, dims)]
    return nn.Sequential(*layers)


def paper_encoder(config: NetworkConfig, width_out: int) -> nn.Sequential:
    """4x4 convolutions of stride 2 with ReLU, a 3x3 convolution, the residual stack, 1x1 to the codebook's width."""
    dims, conv, width_in = config.spatial_dims, CONV[config.spatial_dims], config.in_channels
    layers: list[nn.Module] = []
    for width in _level_widths(config):
        layers += [conv(width_in, width, 4, stride=2, padding=1), nn.ReLU()]
        width_in = width
    layers.append(conv(width_in, width_in, 3, padding=1))
    layers += [PaperResidualBlock(width_in, config.residual_channels, dims) for _ in range(config.num_residual_layers)]
    return nn.Sequential(*layers, nn.ReLU(), conv(width_in, width_out, 1))


def paper_decoder(config: NetworkConfig, width_in: int) -> nn.Sequential:
    """A 3x3 convolution, the residual stack, 4x4 transposed convolutions of stride 2."""
    dims, conv, up = config.spatial_dims, CONV[config.spatial_dims], CONV_TRANSPOSE[config.spatial_dims]
    widths = _level_widths(config)
    layers: list[nn.Module] = [conv(width_in, widths[-1], 3, padding=1)]
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
