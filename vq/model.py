"""The VQ-VAE: encoder, quantizer, decoder, loaded and saved as any transformers model."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput
from vqlm.training.errors import UserError
from vqlm.training.files import write_notice
from vqlm.training.old_names import with_old_names
from vqlm.vq.config import VQVAEConfig
from vqlm.vq.image_processor import VQVAEImageProcessor
from vqlm.vq.networks import DECODERS, ENCODERS
from vqlm.vq.pixels import crop_to_multiple, pad_to_multiple
from vqlm.vq.quantizers.build import build_quantizer
from vqlm.vq.settings import fits


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
    config: VQVAEConfig
    main_input_name = "pixel_values"

    def __init__(self, config: VQVAEConfig):
        super().__init__(config)
        network, quantizer = config.network, config.quantizer
        self.encoder = ENCODERS[network.type](network, quantizer.encoder_dim)
        self.decoder = DECODERS[network.type](network, quantizer.decoder_dim)
        self.quantizer = build_quantizer(quantizer, network.code_shape)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Every layer keeps torch's own start; nothing to do here, and nothing for transformers to overwrite."""

    def forward(self, pixel_values: Float[Tensor, "b c *input_shape"]) -> VQVAEOutput:
        """(B, C, *input_shape) in [-1, 1] -> reconstruction, codes and losses. Changes no state."""
        z_e = self.encode_continuous(pixel_values)
        quantized = self.quantizer(z_e)
        return VQVAEOutput(
            reconstruction=_without_padding(self.decoder(quantized.z_q), self.fit_size(pixel_values).shape[2:]),
            codes=quantized.codes,
            z_e=z_e,
            losses=quantized.losses,
        )

    def encode_continuous(self, pixel_values: Float[Tensor, "b c *input_shape"]) -> Float[Tensor, "b d *shape"]:
        """z_e, fp32: the encoder's output, one vector a position. Any size that `network.size_mismatch` lets in."""
        self._check_pixel_values(pixel_values)
        pixel_values = self.fit_size(pixel_values)
        if self.config.network.size_mismatch == "pad":
            pixel_values = pad_to_multiple(pixel_values, self.config.downsample_factor)
        return self.encoder(pixel_values).float()

    def fit_size(self, pictures: Shaped[Tensor, "b c *shape"]) -> Shaped[Tensor, "b c *fitted"]:
        """What a reconstruction is of: the pictures, or their middle where `network.size_mismatch` is "crop"."""
        cropped = self.config.network.size_mismatch == "crop"
        return crop_to_multiple(pictures, self.config.downsample_factor) if cropped else pictures

    @torch.no_grad()
    def encode(self, pixel_values: Float[Tensor, "b c *input_shape"]) -> Int[Tensor, "b *code_shape"]:
        """(B, C, *input_shape) in [-1, 1] -> codes (B, *code_shape) int64 in [0, K).

        Raises UserError for pictures of another kind or size, or with values that are not finite.
        """
        require_finite(pixel_values)
        return self.quantizer.encode(self.encode_continuous(pixel_values))

    @torch.no_grad()
    def decode_codes(self, codes: Int[Tensor, "b *code_shape"]) -> Float[Tensor, "b c *input_shape"]:
        """Codes (B, *code_shape) -> pixel values (B, C, *input_shape), clamped to [-1, 1].

        Raises UserError for a code outside [0, K) or a wrong number of dimensions.
        """
        size, shape = self.config.codebook_size, self.config.code_shape
        # Positions may be as many as there are; what follows them, or a hierarchy's flat codes, may not.
        fixed = 0 if shape == self.config.network.code_shape else 1
        if codes.ndim != len(shape) + 1 or (fixed and codes.shape[-1] != shape[-1]):
            raise UserError(f"codes must be (batch, {', '.join(map(str, shape))}), found shape {tuple(codes.shape)}.")
        if codes.numel() and (codes.min() < 0 or codes.max() >= size):
            raise UserError(f"codes must lie in [0, {size}), found {int(codes.min())} to {int(codes.max())}.")
        z_q = self.quantizer.decode(codes).to(self.dtype)
        made = self.decoder(z_q).float().clamp(-1, 1)
        network = self.config.network
        whole = network.size_mismatch == "pad" and made.shape[2:] == tuple(
            n * network.downsample_factor for n in network.code_shape
        )
        return _without_padding(made, network.input_shape) if whole else made

    def flatten_codes(self, codes: Int[Tensor, "b *code_shape"]) -> Int[Tensor, "b n"]:
        """(B, *code_shape) -> (B, n), row by row, the codes of a position one after another: the order in which a
        language model sees them."""
        return rearrange(codes, "b ... -> b (...)")

    def unflatten_codes(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, "b *code_shape"]:
        """(B, n) -> (B, *code_shape), the inverse of `flatten_codes`."""
        return codes.reshape(-1, *self.config.code_shape)

    @property
    def image_processor(self) -> VQVAEImageProcessor:
        """What makes `pixel_values` of pictures as they were made in training. Raises UserError for a model of
        anything else than pictures in colour."""
        return VQVAEImageProcessor.of(self.config)

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """As any transformers model, beside it the image processor, if it is one of pictures, and the licence line of
        its pictures as NOTICE."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.config.takes_pictures:
            self.image_processor.save_pretrained(save_directory)
        write_notice(Path(save_directory), self.config.attribution)

    @torch.no_grad()
    def fingerprint(self) -> str:
        """16 hex digits that name these weights and this architecture. What later stages check."""
        digest = hashlib.sha256()
        described = {"network": asdict(self.config.network), "quantizer": asdict(self.config.quantizer)}
        digest.update(json.dumps(with_old_names(described), sort_keys=True).encode())
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
        factor, shape = network.downsample_factor, tuple(pixel_values.shape[2:])
        if not all(fits(n, factor, network.size_mismatch) for n in shape):
            nearest = tuple(max(factor, round(n / factor) * factor) for n in shape)
            raise UserError(
                f"every side of a picture must be a multiple of {factor}, found {shape}; the nearest valid size is "
                f"{nearest}, the model was trained on {tuple(network.input_shape)}. Resize it, or train with "
                "network.size_mismatch pad or crop."
            )


def require_finite(pixel_values: Tensor) -> None:
    """Raises UserError that names the first picture with a NaN or an infinity."""
    if not (finite := pixel_values.isfinite().flatten(1).all(1)).all():
        raise UserError(
            f"pixel_values must be finite; picture {int((~finite).nonzero()[0])} of {len(finite)} holds NaN or "
            "infinity. Repair or remove it."
        )


def _without_padding(made: Tensor, shape: Sequence[int]) -> Tensor:
    for axis, size in enumerate(shape, start=2):
        made = made.narrow(axis, 0, size)
    return made


def load_image_tokenizer(folder: Path | str) -> VQVAE:
    """A trained VQ-VAE. Raises UserError for a folder that holds none."""
    if not (Path(folder) / "model.safetensors").exists():
        raise UserError(f"{folder} holds no finished image tokenizer; train one there with scripts/train_vq.py.")
    return VQVAE.from_pretrained(str(folder)).eval()


AutoConfig.register(VQVAEConfig.model_type, VQVAEConfig, exist_ok=True)
AutoModel.register(VQVAEConfig, VQVAE, exist_ok=True)
