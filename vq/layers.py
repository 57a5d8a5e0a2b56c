"""Layers for one, two or three spatial dimensions. Know neither settings nor codes."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

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
