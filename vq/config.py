"""The configuration of a VQ-VAE. The shapes that follow from it are properties, computed nowhere else."""

import math
from dataclasses import asdict, fields
from typing import Any, get_args

from transformers import PreTrainedConfig

from vqlm.training.errors import UserError
from vqlm.training.old_names import with_new_names
from vqlm.vq.quantizers.settings import QuantizerConfig, VQConfig, quantizer_config
from vqlm.vq.settings import Fit, NetworkConfig


class VQVAEConfig(PreTrainedConfig):
    """A network, a quantizer, and what the model was trained on.

    Args:
        network: encoder and decoder; a dataclass, or a dict from JSON.
        quantizer: likewise; a plain `VQConfig` by default.
        background: colour on which transparent pictures are laid.
        fit: how pictures of another shape become of the network's: "crop" to their middle, "pad", or "auto", which
            pads transparent and flat-bordered ones and crops photographs (`vqlm.vq.fitting`).
        attribution: licence line of the collection.
        training_record: steps, seconds and held-out figures of the training, written at its end.

    Raises:
        UserError: for an unknown key in `network` or `quantizer`, or values that do not fit together.
    """

    model_type = "vqvae"

    # Given as a dataclass, as a dict (from JSON), or not at all; always a dataclass afterwards.
    network: NetworkConfig = None  # type: ignore[assignment]
    quantizer: QuantizerConfig = None  # type: ignore[assignment]
    background: str = "white"
    fit: Fit = "auto"
    attribution: str | None = None
    training_record: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        if not isinstance(self.network, NetworkConfig):
            self.network = _network_config(self.network or {})
        if self.quantizer is None:
            self.quantizer = VQConfig()
        elif isinstance(self.quantizer, dict):
            self.quantizer = quantizer_config(self.quantizer)
        if self.fit not in get_args(Fit):
            raise UserError(f"fit must be auto, pad or crop, found {self.fit!r}.")
        _ = self.code_shape  # which refuses positions that a hierarchy can't halve
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "VQVAEConfig":  # type: ignore[override]
        """A config from JSON. One without a `fit` is from before there was a choice, and means "crop"."""
        return super().from_dict({"fit": "crop"} | config_dict, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        return super().to_diff_dict() | {"fit": self.fit}  # what is not written means another fit

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
    settings = with_new_names(settings, "network.")
    known = [field.name for field in fields(NetworkConfig)]
    if unknown := sorted(set(settings) - set(known)):
        raise UserError(f"network has no setting {unknown[0]!r}; it knows {', '.join(known)}.")
    return NetworkConfig(**settings)
