"""The VQ-VAE: encoder, quantizer, decoder, loaded and saved as any transformers model."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from training.errors import UserError
from training.files import write_notice
from vq.config import VQVAEConfig
from vq.networks import DECODERS, ENCODERS
from vq.quantizers import build_quantizer


@dataclass
class VQVAEOutput(ModelOutput):
    """What a VQ-VAE makes of `pixel_values`.

    reconstruction: (B, C, *input_shape), about [-1, 1]. codes: (B, *code_shape) int64.
    z_e: (B, D, h, w) fp32, what the quantizer was given. losses: the quantizer's own, unweighted, by name.
    """

    reconstruction: Tensor | None = None
    codes: Tensor | None = None
    z_e: Tensor | None = None
    losses: dict[str, Tensor] | None = None


class VQVAE(PreTrainedModel):
    """Vector-quantised autoencoder (van den Oord et al. 2017, arXiv 1711.00937).

    `encode` and `decode_codes` are all that the later stages use of it.
    """

    config_class = VQVAEConfig
    main_input_name = "pixel_values"

    def __init__(self, config: VQVAEConfig):
        super().__init__(config)
        network, quantizer = config.network, config.quantizer
        self.encoder = ENCODERS[network.type](network, quantizer.codebook_dim)
        self.decoder = DECODERS[network.type](network, quantizer.codebook_dim)
        self.quantizer = build_quantizer(quantizer)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Every layer keeps torch's own start; nothing to do here, and nothing for transformers to overwrite."""

    def forward(self, pixel_values: Float[Tensor, "b c *input_shape"]) -> VQVAEOutput:
        """(B, C, *input_shape) in [-1, 1] -> reconstruction, codes and losses. Changes no state."""
        z_e = self.encode_continuous(pixel_values)
        quantized = self.quantizer(z_e)
        return VQVAEOutput(
            reconstruction=self.decoder(quantized.z_q),
            codes=quantized.codes,
            z_e=z_e,
            losses=quantized.losses,
        )

    def encode_continuous(self, pixel_values: Float[Tensor, "b c *input_shape"]) -> Float[Tensor, "b d *shape"]:
        """z_e, fp32: the encoder's output, one vector a position. Any size divisible by the downsample factor."""
        self._check_pixel_values(pixel_values)
        return self.encoder(pixel_values).float()

    @torch.no_grad()
    def encode(self, pixel_values: Float[Tensor, "b c *input_shape"]) -> Int[Tensor, "b *code_shape"]:
        """(B, C, *input_shape) in [-1, 1] -> codes (B, *code_shape) int64 in [0, K)."""
        return self.quantizer.encode(self.encode_continuous(pixel_values))

    @torch.no_grad()
    def decode_codes(self, codes: Int[Tensor, "b *code_shape"]) -> Float[Tensor, "b c *input_shape"]:
        """Codes (B, *code_shape) -> pixel values (B, C, *input_shape), clamped to [-1, 1].

        Raises UserError for a code outside [0, K) or a wrong number of dimensions.
        """
        size, several = self.config.codebook_size, self.config.quantizer.codes_per_position
        dims = len(self.config.code_shape)
        if codes.ndim != dims + 1 or (several > 1 and codes.shape[-1] != several):
            last = f", {several} codes a position" if several > 1 else ""
            raise UserError(
                f"codes must be (batch, {self.config.network.spatial_dims} spatial dimensions{last}), found shape "
                f"{tuple(codes.shape)}."
            )
        if codes.numel() and (codes.min() < 0 or codes.max() >= size):
            raise UserError(f"codes must lie in [0, {size}), found {int(codes.min())} to {int(codes.max())}.")
        z_q = self.quantizer.decode(codes).to(self.dtype)
        return self.decoder(z_q).float().clamp(-1, 1)

    def flatten_codes(self, codes: Int[Tensor, "b *code_shape"]) -> Int[Tensor, "b n"]:
        """(B, *code_shape) -> (B, n), row by row, the codes of a position one after another: the order in which a
        language model sees them."""
        return rearrange(codes, "b ... -> b (...)")

    def unflatten_codes(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, "b *code_shape"]:
        """(B, n) -> (B, *code_shape), the inverse of `flatten_codes`."""
        return codes.reshape(-1, *self.config.code_shape)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """As any transformers model, with the licence line of its pictures as NOTICE."""
        super().save_pretrained(save_directory, *args, **kwargs)
        write_notice(Path(save_directory), self.config.attribution)

    @torch.no_grad()
    def fingerprint(self) -> str:
        """16 hex digits that name these weights and this architecture. What later stages check."""
        digest = hashlib.sha256()
        described = {"network": asdict(self.config.network), "quantizer": asdict(self.config.quantizer)}
        digest.update(json.dumps(described, sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def _check_pixel_values(self, pixel_values: Tensor) -> None:
        network = self.config.network
        if pixel_values.ndim != network.spatial_dims + 2 or pixel_values.shape[1] != network.in_channels:
            raise UserError(
                f"pixel_values must be (batch, {network.in_channels} channels, {network.spatial_dims} spatial "
                f"dimensions), found shape {tuple(pixel_values.shape)}."
            )
        factor = network.downsample_factor
        if any(n < factor or n % factor for n in pixel_values.shape[2:]):
            raise UserError(
                f"every side of a picture must be a multiple of {factor}, found {tuple(pixel_values.shape[2:])}; "
                f"resize it, the model was trained on {tuple(network.input_shape)}."
            )
