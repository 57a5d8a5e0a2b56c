"""Stage one: pictures (or series, or volumes) <-> codes. Knows nothing of text or of sequences."""

from transformers import AutoConfig, AutoModel

from vq.config import NetworkConfig, VQVAEConfig
from vq.model import VQVAE, VQVAEOutput
from vq.quantizer import QuantizerConfig, QuantizerOutput, VectorQuantizer, straight_through

AutoConfig.register(VQVAEConfig.model_type, VQVAEConfig, exist_ok=True)
AutoModel.register(VQVAEConfig, VQVAE, exist_ok=True)

__all__ = [
    "NetworkConfig",
    "QuantizerConfig",
    "QuantizerOutput",
    "VQVAE",
    "VQVAEConfig",
    "VQVAEOutput",
    "VectorQuantizer",
    "straight_through",
]
