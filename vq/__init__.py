"""Stage one: pictures (or series, or volumes) <-> codes. Knows nothing of text or of sequences."""

from transformers import AutoConfig, AutoModel

from vq.config import NetworkConfig, VQVAEConfig
from vq.model import VQVAE, VQVAEOutput
from vq.pictures import picture_grid, to_pil, to_pixel_values, to_uint8
from vq.quantizers import (
    FSQConfig,
    GroupedConfig,
    HierarchicalConfig,
    LFQConfig,
    QuantizerConfig,
    ResidualConfig,
    VQConfig,
)

AutoConfig.register(VQVAEConfig.model_type, VQVAEConfig, exist_ok=True)
AutoModel.register(VQVAEConfig, VQVAE, exist_ok=True)

__all__ = [
    "FSQConfig",
    "GroupedConfig",
    "HierarchicalConfig",
    "LFQConfig",
    "NetworkConfig",
    "QuantizerConfig",
    "ResidualConfig",
    "VQConfig",
    "VQVAE",
    "VQVAEConfig",
    "VQVAEOutput",
    "picture_grid",
    "to_pil",
    "to_pixel_values",
    "to_uint8",
]
