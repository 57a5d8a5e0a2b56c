"""The settings of stage one. Needs no torch, so that the command line can name them quickly."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from vqlm.training.config import OptimizerName, TrainingConfig
from vqlm.training.errors import UserError, require_range

Fit = Literal["auto", "pad", "crop"]  # see vqlm.vq.fitting


@dataclass
class NetworkConfig:
    """Encoder and decoder.

    Args:
        type: "patch" is a fast network on patches; "paper" is that of van den Oord et al. 2017 as in Sonnet's example.
        input_shape: height and width of a picture, in pixels; one number for a series, three for a volume.
        in_channels: channels of the input, 3 for RGB.
        strides: downsampling of each level, in order; "paper" takes levels of 2 only.
        stem_channels: width of every level but the deepest.
        hidden_channels: width of the deepest level.
        residual_channels: width inside a residual block; by default that of its input.
        num_residual_layers: residual blocks per level ("patch"), or in the one stack ("paper").
        size_mismatch: for a side that the downsample factor does not divide: "refuse" it; "pad" the picture by
            repeating its last row and column, which the reconstruction leaves out again; or "crop" to its middle.
    """

    type: Literal["patch", "paper"] = "patch"
    input_shape: list[int] = field(default_factory=lambda: [64, 64])
    in_channels: int = 3
    strides: list[int] = field(default_factory=lambda: [4, 2])
    stem_channels: int = 64
    hidden_channels: int = 192
    residual_channels: int | None = None
    num_residual_layers: int = 2
    size_mismatch: Literal["refuse", "pad", "crop"] = "refuse"

    def __post_init__(self):
        self.input_shape, self.strides = list(self.input_shape), list(self.strides)
        if self.type not in ("patch", "paper"):
            raise UserError(f"`network.type` must be patch or paper, found {self.type!r}.")
        if not 1 <= len(self.input_shape) <= 3:
            raise UserError(f"`network.input_shape` must have 1, 2 or 3 numbers, found {self.input_shape}.")
        if not self.strides or min(self.strides) < 1:
            raise UserError(f"`network.strides` must hold at least one positive number, found {self.strides}.")
        if self.type == "paper" and set(self.strides) != {2}:
            raise UserError(
                f"`network.type` paper halves at every level; set `network.strides` to 2s, found {self.strides}."
            )
        sizes = ("in_channels", "stem_channels", "hidden_channels", "residual_channels")
        require_range(self, "[1, inf)", *sizes, prefix="network.")
        require_range(self, "[0, inf)", "num_residual_layers", prefix="network.")
        if self.size_mismatch not in ("refuse", "pad", "crop"):
            raise UserError(f"`network.size_mismatch` must be refuse, pad or crop, found {self.size_mismatch!r}.")
        factor = self.downsample_factor
        if wrong := [n for n in self.input_shape if not fits(n, factor, self.size_mismatch)]:
            nearest = [max(factor, round(n / factor) * factor) for n in self.input_shape]
            remedy = ", or set `network.size_mismatch` to pad" + ("" if min(self.input_shape) < factor else " or crop")
            raise UserError(
                f"`network.input_shape` {self.input_shape} must be divisible by the downsample factor {factor} "
                f"(the product of `network.strides`), {wrong[0]} is not; the nearest valid shape is {nearest}{remedy}."
            )

    @property
    def spatial_dims(self) -> int:
        return len(self.input_shape)

    @property
    def downsample_factor(self) -> int:
        return math.prod(self.strides)

    @property
    def code_shape(self) -> tuple[int, ...]:
        factor = self.downsample_factor
        return tuple(-(-n // factor) if self.size_mismatch == "pad" else n // factor for n in self.input_shape)


def fits(size: int, factor: int, size_mismatch: str) -> bool:
    """Whether a side of `size` can be encoded: by default a multiple of the downsample factor, and never 0."""
    return size >= 1 if size_mismatch == "pad" else size >= factor and (size_mismatch == "crop" or size % factor == 0)


@dataclass
class LossConfig:
    """Terms of the reconstruction loss. The defaults are the mean squared error alone.

    Args:
        reconstruction: "l2", divided by the data's variance, or "l1", divided by its standard deviation.
        perceptual_weight: weight of the distance between features of the picture and of its reconstruction.
        perceptual_network: network of the features: "lpips" (package lpips, fetches its weights), or the name or folder
            of any transformers backbone, such as a ResNet.
        adversarial_weight: weight of the loss from a patch discriminator, scaled so that its gradient at the decoder's
            last layer is as long as that of the other terms (Esser et al. 2021, arXiv 2012.09841).
        adversarial_start: share of the budget, or from 1 the step, at which the discriminator begins, when
            reconstructions are worth judging.
        max_adaptive_weight: largest scale of the discriminator's loss.
        discriminator_channels: width of the discriminator's first layer.
        discriminator_layers: the discriminator's layers of stride 2; each doubles the size of a patch.
    """

    reconstruction: Literal["l2", "l1"] = "l2"
    perceptual_weight: float = 0.0
    perceptual_network: str | None = None
    adversarial_weight: float = 0.0
    adversarial_start: int | float = 0.5
    max_adaptive_weight: float = 1e4
    discriminator_channels: int = 64
    discriminator_layers: int = 2

    def __post_init__(self):
        if self.reconstruction not in ("l2", "l1"):
            raise UserError(f"`loss.reconstruction` must be l2 or l1, found {self.reconstruction!r}.")
        weights = ("perceptual_weight", "adversarial_weight", "adversarial_start", "max_adaptive_weight")
        require_range(self, "[0, inf)", *weights, prefix="loss.")
        require_range(self, "[1, inf)", "discriminator_channels", "discriminator_layers", prefix="loss.")
        if self.perceptual_weight and not self.perceptual_network:
            raise UserError(
                "`loss.perceptual_weight` needs `loss.perceptual_network`: lpips, or the name or folder of a "
                "transformers backbone."
            )


@dataclass(kw_only=True)
class VQTrainingConfig(TrainingConfig):
    """The settings that only stage one has.

    Args:
        optimizer: "muon" for the convolutions, with AdamW for the rest, or "adamw" for all.
        flip: probability of mirroring a picture left to right.
        max_shift: pictures are moved by up to this many pixels, their edges repeated.
        loss: terms of the reconstruction loss.
    """

    default_steps: ClassVar[int] = 1600

    optimizer: OptimizerName = "muon"
    learning_rate: float = 5e-3
    flip: float = 0.0
    max_shift: int = 0
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self):
        super().__post_init__()
        require_range(self, "[0, 1]", "flip")
        require_range(self, "[0, inf)", "max_shift")
        start = self.loss.adversarial_start
        if self.loss.adversarial_weight and self.max_steps is not None and start >= self.max_steps:
            raise UserError(
                f"`loss.adversarial_weight` has no effect: the discriminator begins at step {start} "
                f"(`loss.adversarial_start`) of {self.max_steps}; lower `loss.adversarial_start`."
            )
