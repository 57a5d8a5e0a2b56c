"""The settings of every quantizer. Needs no torch, so that the command line can name them quickly."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from vqlm.training.errors import UserError, require_range

CHOICES = {
    "codebook_training": ("ema", "gradient", "simvq"),
    "distance": ("l2", "cosine"),
    "gradient_estimator": ("straight_through", "rotation"),
    "initialization": ("sample", "kmeans", "random"),
}
MAX_LEVELS = 3


class QuantizerSettings:
    """The figures that networks and the vocabulary read from the settings of a quantizer, which have `codebook_dim`."""

    @property
    def codes_per_position(self) -> int:
        """Codes that name one vector together; more than one are the last dimension of `codes`."""
        return 1

    @property
    def num_codebooks(self) -> int:
        """Codebooks that share the range of ids; a code's place says which of them it belongs to."""
        return self.codes_per_position

    @property
    def encoder_dim(self) -> int:
        """Channels that the encoder gives."""
        return self.codebook_dim  # type: ignore[attr-defined]

    @property
    def decoder_dim(self) -> int:
        """Channels that the decoder takes."""
        return self.codebook_dim  # type: ignore[attr-defined]

    def code_shape(self, positions: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one picture's codes, for an encoder that gives `positions`, (h, w)."""
        several = self.codes_per_position
        return (*positions, several) if several > 1 else positions


@dataclass
class VQConfig(QuantizerSettings):
    """Vector quantization (van den Oord et al. 2017, arXiv 1711.00937).

    Args:
        codebook_size: number of codes, K.
        codebook_dim: width of a code, D. The encoder ends and the decoder starts with a projection to and from it, so
            that a small D is the low-dimensional code of Yu et al. 2021 (arXiv 2110.04627).
        codebook_training: "ema" follows the running mean of the vectors given to a code (van den Oord et al. 2017,
            appendix A.1); "gradient" trains the codebook by the second term of the paper's loss; "simvq" does so with
            one linear map of a codebook that stays as initialised (Zhu et al. 2024, arXiv 2411.02038).
        ema_decay: decay of the running means; also that of the usage counts that revival reads.
        commitment_weight: beta, the weight of the third term of the paper's loss.
        distance: "l2"; or "cosine", where z_e and codes are scaled to length 1.
        gradient_estimator: "straight_through", or the "rotation" trick (Fifty et al. 2024, arXiv 2410.06424).
        initialization: where the codebook starts: "sample" of encoder outputs, "kmeans" of them, or "random".
        dead_code_threshold: a code whose running count per step falls below this is revived, or below this share of
            the mean count where that is less than 1; 0 never revives, and "simvq" never does.
        normalize_z_e: normalise each encoder output over its D channels, so that the codebook meets one scale.
    """

    type: Literal["vq"] = "vq"
    codebook_size: int = 1024
    codebook_dim: int = 16
    codebook_training: Literal["ema", "gradient", "simvq"] = "ema"
    ema_decay: float = 0.99
    commitment_weight: float = 0.25
    distance: Literal["l2", "cosine"] = "l2"
    gradient_estimator: Literal["straight_through", "rotation"] = "straight_through"
    initialization: Literal["sample", "kmeans", "random"] = "sample"
    dead_code_threshold: float = 0.1
    normalize_z_e: bool = True

    def __post_init__(self):
        require_range(self, "[1, inf)", "codebook_size", "codebook_dim", prefix="quantizer.")
        require_range(self, "[0, 1)", "ema_decay", prefix="quantizer.")
        require_range(self, "[0, inf)", "commitment_weight", "dead_code_threshold", prefix="quantizer.")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"`quantizer.{name}` must be one of {', '.join(allowed)}, found {getattr(self, name)!r}."
                )


@dataclass
class FSQConfig(QuantizerSettings):
    """Finite scalar quantization (Mentzer et al. 2023, arXiv 2309.15505).

    Args:
        levels: number of levels of each channel; their product is the codebook's size. The paper advises 5 or more.
    """

    type: Literal["fsq"] = "fsq"
    levels: list[int] = field(default_factory=lambda: [8, 5, 5, 5])

    def __post_init__(self):
        self.levels = list(self.levels)
        if not self.levels or min(self.levels) < 3:
            raise UserError(f"`quantizer.levels` must hold numbers of at least 3, found {self.levels}.")

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)

    @property
    def codebook_dim(self) -> int:
        return len(self.levels)


@dataclass
class LFQConfig(QuantizerSettings):
    """Lookup-free quantization (Yu et al. 2023, arXiv 2310.05737).

    Args:
        codebook_size: number of codes, a power of two; its logarithm is the number of channels.
        entropy_weight: weight of the entropy loss, which makes each choice certain and all codes equally frequent.
        diversity: weight of the second term of the entropy loss relative to the first.
        temperature: temperature of the soft choice of a code, whose entropy is computed.
        commitment_weight: beta, the weight of the squared distance to the chosen signs.
    """

    type: Literal["lfq"] = "lfq"
    codebook_size: int = 1024
    entropy_weight: float = 0.1
    diversity: float = 1.0
    temperature: float = 0.01
    commitment_weight: float = 0.25

    def __post_init__(self):
        if self.codebook_size < 2 or self.codebook_size.bit_count() != 1:
            raise UserError(f"`quantizer.codebook_size` must be a power of two for lfq, found {self.codebook_size}.")
        require_range(self, "(0, inf)", "temperature", prefix="quantizer.")
        require_range(self, "[0, inf)", "entropy_weight", "diversity", "commitment_weight", prefix="quantizer.")

    @property
    def codebook_dim(self) -> int:
        return self.codebook_size.bit_length() - 1


@dataclass
class ResidualConfig(VQConfig):
    """Residual quantization (Lee et al. 2022, arXiv 2203.01941): as `vq`, and

    Args:
        num_quantizers: codes per position; each names the residual of the ones before it.
    """

    type: Literal["residual"] = "residual"  # type: ignore[assignment]
    num_quantizers: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.num_quantizers < 2:
            raise UserError(
                f"`quantizer.num_quantizers` must be at least 2, found {self.num_quantizers}; one is "
                "`quantizer.type` vq."
            )
        if self.distance != "l2":
            raise UserError("`quantizer.distance` must be l2 for `quantizer.type` residual: a residual has a length.")

    @property
    def codes_per_position(self) -> int:
        return self.num_quantizers


@dataclass
class GroupedConfig(VQConfig):
    """Product codes (Jegou et al. 2011; Baevski et al. 2020, arXiv 1910.05453): as `vq`, and

    Args:
        num_groups: codes per position; each names an equal share of the channels, by a codebook for that share.
    """

    type: Literal["grouped"] = "grouped"  # type: ignore[assignment]
    num_groups: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.num_groups < 2:
            raise UserError(
                f"`quantizer.num_groups` must be at least 2, found {self.num_groups}; one is `quantizer.type` vq."
            )
        if self.codebook_dim % self.num_groups:
            raise UserError(
                f"`quantizer.codebook_dim` {self.codebook_dim} must be divisible by `quantizer.num_groups` "
                f"{self.num_groups}."
            )

    @property
    def codes_per_position(self) -> int:
        return self.num_groups


@dataclass
class HierarchicalConfig(VQConfig):
    """VQ-VAE-2 (Razavi et al. 2019, arXiv 1906.00446): as `vq`, each level with a codebook, and

    Args:
        num_levels: 2 or 3; each level has half as many positions along every side as the one below it.
        level_channels: width of the networks between the levels.
        level_residual_layers: residual blocks in each of them.
    """

    type: Literal["hierarchical"] = "hierarchical"  # type: ignore[assignment]
    num_levels: int = 2
    level_channels: int = 128
    level_residual_layers: int = 2

    def __post_init__(self):
        super().__post_init__()
        if not 2 <= self.num_levels <= MAX_LEVELS:
            raise UserError(
                f"`quantizer.num_levels` must be 2 or {MAX_LEVELS}, found {self.num_levels}; one is "
                "`quantizer.type` vq."
            )
        require_range(self, "[1, inf)", "level_channels", "level_residual_layers", prefix="quantizer.")

    @property
    def num_codebooks(self) -> int:
        return self.num_levels

    @property
    def encoder_dim(self) -> int:
        return self.level_channels

    @property
    def decoder_dim(self) -> int:
        return self.codebook_dim + self.level_channels

    def level_shapes(self, positions: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Positions of each level, the top (the fewest) first. Raises UserError where they can't be halved."""
        factor = 2 ** (self.num_levels - 1)
        if any(n % factor for n in positions):
            raise UserError(
                f"`quantizer.num_levels` {self.num_levels} halves the {tuple(positions)} positions of the encoder "
                f"{self.num_levels - 1} times, so each must be divisible by {factor}; change `network.input_shape` "
                "or `network.strides`."
            )
        return [tuple(n // 2**level for n in positions) for level in reversed(range(self.num_levels))]

    def code_shape(self, positions: tuple[int, ...]) -> tuple[int, ...]:
        return (sum(math.prod(shape) for shape in self.level_shapes(positions)),)


QuantizerConfig = VQConfig | FSQConfig | LFQConfig | ResidualConfig | GroupedConfig | HierarchicalConfig

CONFIGS: dict[str, type[QuantizerConfig]] = {
    "vq": VQConfig,
    "fsq": FSQConfig,
    "lfq": LFQConfig,
    "residual": ResidualConfig,
    "grouped": GroupedConfig,
    "hierarchical": HierarchicalConfig,
}


def quantizer_config_type(type_name: str) -> type[QuantizerConfig]:
    """The settings that belong to `quantizer.type`. Raises UserError for a type that does not exist."""
    if type_name not in CONFIGS:
        raise UserError(f"`quantizer.type` must be one of {', '.join(CONFIGS)}, found {type_name!r}.")
    return CONFIGS[type_name]


def quantizer_config(settings: dict) -> QuantizerConfig:
    """Settings by name, `type` among them ("vq" when not given). Raises UserError for one of another type."""
    type_name = settings.get("type", "vq")
    kind = quantizer_config_type(type_name)
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(settings) - set(known)):
        raise UserError(f"quantizer of type {type_name} has no setting {unknown[0]!r}; it knows {', '.join(known)}.")
    return kind(**settings)


def plain_config(config: VQConfig, **changes: Any) -> VQConfig:
    """The settings that `vq` knows, from those of a quantizer that is built of several."""
    settings: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(VQConfig)}
    settings.update(type="vq", **changes)
    return VQConfig(**settings)
