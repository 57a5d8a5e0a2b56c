"""Stage one: pictures (or series, or volumes) <-> codes. Knows nothing of text or of sequences."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel

from vq.config import NetworkConfig, VQVAEConfig
from vq.image_processor import VQVAEImageProcessor
from vq.model import VQVAE, VQVAEOutput
from vq.pictures import draft, picture_grid, scale_and_crop, to_pil, to_pixel_values, to_rgb, to_uint8
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
AutoImageProcessor.register(VQVAEConfig, image_processor_classes={"pil": VQVAEImageProcessor}, exist_ok=True)

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
    "VQVAEImageProcessor",
    "VQVAEOutput",
    "draft",
    "picture_grid",
    "scale_and_crop",
    "to_pil",
    "to_pixel_values",
    "to_rgb",
    "to_uint8",
]
