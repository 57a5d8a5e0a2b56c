"""What a VQ-VAE is made of. The shapes that follow from it are properties, computed nowhere else."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from transformers import PreTrainedConfig

from training.errors import UserError
from vq.quantizers import QuantizerConfig, VQConfig, quantizer_config


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
        residual_channels: width inside a residual block; the block's own width when not given.
        num_residual_layers: residual blocks a level ("patch"), or in the one stack ("paper").
        misfit: a side that the downsample factor does not divide is refused; or the picture is padded by repeating its
            last row and column, which the reconstruction leaves out again ("pad"); or its middle is taken ("crop").
    """

    type: Literal["patch", "paper"] = "patch"
    input_shape: list[int] = field(default_factory=lambda: [64, 64])
    in_channels: int = 3
    strides: list[int] = field(default_factory=lambda: [4, 2])
    stem_channels: int = 64
    hidden_channels: int = 192
    residual_channels: int | None = None
    num_residual_layers: int = 2
    misfit: Literal["refuse", "pad", "crop"] = "refuse"

    def __post_init__(self):
        self.input_shape, self.strides = list(self.input_shape), list(self.strides)
        if self.type not in ("patch", "paper"):
            raise UserError(f"network.type must be patch or paper, found {self.type!r}.")
        if not 1 <= len(self.input_shape) <= 3:
            raise UserError(f"network.input_shape must have 1, 2 or 3 numbers, found {self.input_shape}.")
        if not self.strides or min(self.strides) < 1:
            raise UserError(f"network.strides must hold at least one positive number, found {self.strides}.")
        if self.type == "paper" and set(self.strides) != {2}:
            raise UserError(
                f"network.type paper halves at every level; set network.strides to 2s, found {self.strides}."
            )
        for name in ("in_channels", "stem_channels", "hidden_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"network.{name} must be at least 1, found {getattr(self, name)}.")
        if self.misfit not in ("refuse", "pad", "crop"):
            raise UserError(f"network.misfit must be refuse, pad or crop, found {self.misfit!r}.")
        factor = self.downsample_factor
        if wrong := [n for n in self.input_shape if not fits(n, factor, self.misfit)]:
            nearest = [max(factor, round(n / factor) * factor) for n in self.input_shape]
            remedy = ", or set network.misfit to pad" + ("" if min(self.input_shape) < factor else " or crop")
            raise UserError(
                f"network.input_shape {self.input_shape} must be divisible by the downsample factor {factor} "
                f"(the product of network.strides), {wrong[0]} is not; the nearest valid shape is {nearest}{remedy}."
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
        return tuple(-(-n // factor) if self.misfit == "pad" else n // factor for n in self.input_shape)


def fits(size: int, factor: int, misfit: str) -> bool:
    """Whether a side of `size` can be encoded: by default a multiple of the downsample factor, and never none of it."""
    return size >= 1 if misfit == "pad" else size >= factor and (misfit == "crop" or size % factor == 0)


class VQVAEConfig(PreTrainedConfig):
    """A network, a quantizer, and what pictures it learned: on which `background` transparency was laid, and the
    licence line of the collection (`attribution`).

    Raises UserError for an unknown key in `network` or `quantizer`, or values that do not fit together.
    """

    model_type = "vqvae"

    # Given as a dataclass, as a dict (from JSON), or not at all; always a dataclass afterwards.
    network: NetworkConfig = None  # type: ignore[assignment]
    quantizer: QuantizerConfig = None  # type: ignore[assignment]
    background: str = "white"
    attribution: str | None = None

    def __post_init__(self, **kwargs):
        if not isinstance(self.network, NetworkConfig):
            self.network = _network_config(self.network or {})
        if self.quantizer is None:
            self.quantizer = VQConfig()
        elif isinstance(self.quantizer, dict):
            self.quantizer = quantizer_config(self.quantizer)
        _ = self.code_shape  # which refuses positions that a hierarchy can't halve
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"network": asdict(self.network), "quantizer": asdict(self.quantizer)}

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of one picture's codes: (h, w); (h, w, codes_per_position); or (n,), all levels of a hierarchy."""
        return self.quantizer.code_shape(self.network.code_shape)

    @property
    def downsample_factor(self) -> int:
        """H / h."""
        return self.network.downsample_factor

    @property
    def takes_pictures(self) -> bool:
        """Whether its input is a picture in colour, and no series, volume or other array."""
        return self.network.spatial_dims == 2 and self.network.in_channels == 3

    @property
    def tokens_per_image(self) -> int:
        """Codes that name one picture."""
        return math.prod(self.code_shape)

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.quantizer.codebook_size


def _network_config(settings: dict[str, Any]) -> NetworkConfig:
    known = [field.name for field in fields(NetworkConfig)]
    if unknown := sorted(set(settings) - set(known)):
        raise UserError(f"network has no setting {unknown[0]!r}; it knows {', '.join(known)}.")
    return NetworkConfig(**settings)
