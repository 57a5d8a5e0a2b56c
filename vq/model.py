"""The VQ-VAE: encoder, quantizer, decoder, loaded and saved as any transformers model."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from vqlm.training.errors import UserError
from vqlm.training.folders.folder_kinds import require_kind
from vqlm.training.folders.weight_files import COPY_AGAIN, weight_files
from vqlm.training.folders.whole_files import follow_umask, read_json, read_json_object, write_notice
from vqlm.training.machine.placement import HUB, device_of, precision_of, require_known
from vqlm.training.old_names import with_old_names
from vqlm.vq.config import VQVAEConfig
from vqlm.vq.image_processor import VQVAEImageProcessor
from vqlm.vq.networks import DECODERS, ENCODERS
from vqlm.vq.pixels import crop_to_multiple, pad_to_multiple
from vqlm.vq.quantizers.build import build_quantizer
from vqlm.vq.settings import fits

# What `VQVAE.from_pretrained` takes: of PreTrainedModel's, and what its Auto class passes on.
LOADING = (
    *HUB, "config", "dtype", "torch_dtype", "device", "device_map", "subfolder", "variant", "use_safetensors",
    "weights_only", "output_loading_info", "ignore_mismatched_sizes", "state_dict", "trust_remote_code",
    "code_revision", "low_cpu_mem_usage",
    "attn_implementation", "adapter_kwargs", "commit_hash", "local_dir", "mirror", "key_mapping",
)  # fmt: skip


@dataclass
class VQVAEOutput(ModelOutput):
    """The result of a forward pass.

    Args:
        reconstruction: (B, C, *input_shape), about [-1, 1].
        codes: (B, *code_shape) int64.
        z_e: (B, D, h, w) fp32, the input of the quantizer.
        losses: the terms of the quantizer, unweighted, by name.
        vectors: what the codes were chosen for, as `quantizer.update` takes it.
    """

    reconstruction: Tensor | None = None
    codes: Tensor | None = None
    z_e: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    vectors: Tensor | None = None


class VQVAE(PreTrainedModel):
    """Vector-quantised autoencoder (van den Oord et al. 2017, arXiv 1711.00937).

    The later stages use `encode` and `decode_codes` only.

    Args:
        config: sizes of the network and the quantizer.

    Example:
        >>> import torch
        >>> from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig
        >>> network = NetworkConfig(input_shape=[16, 16], stem_channels=8, hidden_channels=16)
        >>> model = VQVAE(VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=16, codebook_dim=4))).eval()
        >>> codes = model.encode(torch.zeros(1, 3, 16, 16))
        >>> codes.shape
        torch.Size([1, 2, 2])
        >>> model.decode_codes(codes).shape
        torch.Size([1, 3, 16, 16])
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
        """Every layer keeps the initial weights that torch gives it, and transformers overwrites none of them."""

    def forward(self, pixel_values: Float[Tensor, "b c *input_shape"]) -> VQVAEOutput:
        """Reconstruct pictures; no state changes.

        Args:
            pixel_values: (B, C, *input_shape) in [-1, 1].

        Returns:
            Reconstruction, codes, encoder outputs and the quantizer's losses, see `VQVAEOutput`.

        Raises:
            UserError: for another number of dimensions or channels, or a size that `network.size_mismatch` refuses.

        Example:
            >>> image_tokenizer = vqlm.VQVAE.from_pretrained("outputs/demo/model/image_tokenizer")
            >>> pixel_values = image_tokenizer.image_processor("picture.png", return_tensors="pt").pixel_values
            >>> image_tokenizer(pixel_values).reconstruction.shape == pixel_values.shape
            True
        """
        z_e = self.encode_continuous(pixel_values)
        quantized = self.quantizer(z_e)
        return VQVAEOutput(
            reconstruction=_without_padding(
                self.decoder(quantized.z_q.to(self.dtype)), self.fit_size(pixel_values).shape[2:]
            ),
            codes=quantized.codes,
            z_e=z_e,
            losses=quantized.losses,
            vectors=quantized.vectors,
        )

    def encode_continuous(self, pixel_values: Float[Tensor, "b c *input_shape"]) -> Float[Tensor, "b d *shape"]:
        """z_e, fp32: the encoder's output, one vector per position. Any size that `network.size_mismatch` allows."""
        self._check_pixel_values(pixel_values)
        pixel_values = self.fit_size(pixel_values)
        if self.config.network.size_mismatch == "pad":
            pixel_values = pad_to_multiple(pixel_values, self.config.downsample_factor)
        return self.encoder(pixel_values.to(self.dtype)).float()

    def fit_size(self, pictures: Shaped[Tensor, "b c *shape"]) -> Shaped[Tensor, "b c *fitted"]:
        """The reconstructed part of the pictures: all, or the middle where `network.size_mismatch` is "crop"."""
        cropped = self.config.network.size_mismatch == "crop"
        return crop_to_multiple(pictures, self.config.downsample_factor) if cropped else pictures

    @torch.no_grad()
    def encode(self, pixel_values: Float[Tensor, "b c *input_shape"]) -> Int[Tensor, "b *code_shape"]:
        """Encode pictures as codes, without gradients.

        Args:
            pixel_values: (B, C, *input_shape) in [-1, 1].

        Returns:
            Codes (B, *code_shape) int64 in [0, K).

        Raises:
            UserError: for pictures of another kind or size, or with values that are not finite.

        Example:
            >>> image_tokenizer = vqlm.VQVAE.from_pretrained("outputs/demo/model/image_tokenizer")
            >>> pixel_values = image_tokenizer.image_processor("picture.png", return_tensors="pt").pixel_values
            >>> codes = image_tokenizer.encode(pixel_values)
            >>> codes.shape == (1, *image_tokenizer.config.code_shape)
            True
        """
        require_finite(pixel_values)
        return self.quantizer.encode(self.encode_continuous(pixel_values))

    @torch.no_grad()
    def decode_codes(self, codes: Int[Tensor, "b *code_shape"]) -> Float[Tensor, "b c *input_shape"]:
        """Decode codes to pictures, without gradients.

        Args:
            codes: (B, *code_shape) int64 in [0, K). The number of positions may differ from the training's.

        Returns:
            Pixel values (B, C, *input_shape), clamped to [-1, 1].

        Raises:
            UserError: for a code outside [0, K) or a wrong number of dimensions.

        Example:
            >>> image_tokenizer = vqlm.VQVAE.from_pretrained("outputs/demo/model/image_tokenizer")
            >>> codes = torch.zeros(2, *image_tokenizer.config.code_shape, dtype=torch.int64)
            >>> pixel_values = image_tokenizer.decode_codes(codes)
            >>> pixel_values.shape == (2, 3, *image_tokenizer.config.network.input_shape)
            True
        """
        size, shape = self.config.codebook_size, self.config.code_shape
        # The number of positions may differ; codes per position, or a hierarchy's flat codes, may not.
        fixed = 0 if shape == self.config.network.code_shape else 1
        if codes.ndim != len(shape) + 1 or (fixed and codes.shape[-1] != shape[-1]):
            raise UserError(f"codes must be (batch, {', '.join(map(str, shape))}), found shape {tuple(codes.shape)}.")
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise UserError(f"codes must be whole numbers, found {codes.dtype}.")
        if codes.numel() and (codes.min() < 0 or codes.max() >= size):
            raise UserError(f"codes must lie in [0, {size}), found {int(codes.min())} to {int(codes.max())}.")
        z_q = self.quantizer.decode(codes).to(self.dtype)
        pixel_values = self.decoder(z_q).float().clamp(-1, 1)
        network = self.config.network
        is_padded = network.size_mismatch == "pad" and pixel_values.shape[2:] == tuple(
            n * network.downsample_factor for n in network.code_shape
        )
        return _without_padding(pixel_values, network.input_shape) if is_padded else pixel_values

    def flatten_codes(self, codes: Int[Tensor, "b *code_shape"]) -> Int[Tensor, "b n"]:
        """The codes as a language model sees them: row by row, those of one position one after another.

        Args:
            codes: (B, *code_shape).

        Returns:
            (B, n).

        Example:
            >>> image_tokenizer = vqlm.VQVAE.from_pretrained("outputs/demo/model/image_tokenizer")
            >>> codes = torch.zeros(1, *image_tokenizer.config.code_shape, dtype=torch.int64)
            >>> image_tokenizer.flatten_codes(codes).shape == (1, image_tokenizer.config.tokens_per_image)
            True
        """
        return rearrange(codes, "b ... -> b (...)")

    def unflatten_codes(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, "b *code_shape"]:
        """(B, n) -> (B, *code_shape), the inverse of `flatten_codes`."""
        return codes.reshape(-1, *self.config.code_shape)

    @property
    def image_processor(self) -> VQVAEImageProcessor:
        """The processor that turns pictures into `pixel_values` as in training.

        Raises UserError for a model of anything but pictures in colour.
        """
        return VQVAEImageProcessor.of(self.config)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args, **kwargs) -> "VQVAE":  # type: ignore[override]
        """Load as any transformers model. `load_image_tokenizer` also says what is wrong with a folder that holds none.

        Args:
            pretrained_model_name_or_path: folder of the image tokenizer, or its name on the hub.
            *args: of `PreTrainedModel.from_pretrained`.
            **kwargs: likewise, such as `dtype` or `revision`; and `device`, the CPU by default.

        Returns:
            The model in evaluation mode.

        Raises:
            UserError: for an argument that does not exist, a device that this machine lacks, weights that are missing
                or damaged.
            OSError: for a folder or a name without a model.

        Example:
            >>> image_tokenizer = vqlm.VQVAE.from_pretrained("outputs/demo/model/image_tokenizer")
            >>> image_tokenizer.training
            False
        """
        require_known((name for name in kwargs if not name.startswith("_")), LOADING)
        device = device_of(kwargs.pop("device", None), kwargs.pop("device_map", None))
        if (precision := precision_of(kwargs.pop("dtype", None), kwargs.pop("torch_dtype", None))) is not None:
            kwargs["dtype"] = precision
        kwargs["use_safetensors"] = True
        if Path(pretrained_model_name_or_path, "config.json").exists() and not kwargs.get("subfolder"):
            _require_type(Path(pretrained_model_name_or_path))
            weight_files(Path(pretrained_model_name_or_path), kwargs.get("variant"))
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if device is not None:
            (loaded[0] if isinstance(loaded, tuple) else loaded).to(device)
        return loaded  # type: ignore[return-value]

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """Save as any transformers model; a model of pictures also saves its image processor, and NOTICE.

        Args:
            save_directory: folder to write config.json, model.safetensors and preprocessor_config.json to. NOTICE
                holds the licence line of the pictures, where there is one.
            *args: of `PreTrainedModel.save_pretrained`.
            **kwargs: likewise.

        Example:
            >>> pipe.image_tokenizer.save_pretrained("my_tokenizer")
            >>> vqlm.VQVAE.from_pretrained("my_tokenizer").fingerprint() == pipe.image_tokenizer.fingerprint()
            True
        """
        super().save_pretrained(save_directory, *args, **kwargs)
        follow_umask(*Path(save_directory).glob("*.safetensors"))
        if self.config.takes_pictures:
            self.image_processor.save_pretrained(save_directory)
        write_notice(Path(save_directory), self.config.attribution)

    @torch.no_grad()
    def fingerprint(self) -> str:
        """Identify these weights and this architecture; later stages compare it.

        Returns:
            16 hex digits.

        Example:
            >>> image_tokenizer = vqlm.VQVAE.from_pretrained("outputs/demo/model/image_tokenizer")
            >>> image_tokenizer.fingerprint() == pipe.image_tokenizer.fingerprint()
            True
        """
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
            if network.size_mismatch != "refuse":  # then it is too small
                raise UserError(
                    f"every side of a picture must have at least {1 if network.size_mismatch == 'pad' else factor} "
                    f"pixels, found {shape}; the model was trained on {tuple(network.input_shape)}. Take a larger one."
                )
            raise UserError(
                f"every side of a picture must be a multiple of {factor}, found {shape}; the nearest valid size is "
                f"{nearest}, the model was trained on {tuple(network.input_shape)}. Resize it, or train with "
                "`network.size_mismatch` pad or crop."
            )


def require_finite(pixel_values: Tensor) -> None:
    """Raises UserError that names the first picture with a NaN or an infinity, or for what is no tensor."""
    if not isinstance(pixel_values, Tensor):
        raise UserError(f"pixel_values must be a tensor, found {type(pixel_values).__name__}; use torch.from_numpy.")
    if not (finite := pixel_values.isfinite().flatten(1).all(1)).all():
        raise UserError(
            f"pixel_values must be finite; picture {int((~finite).nonzero()[0])} of {len(finite)} holds NaN or "
            "infinity. Repair or remove it."
        )


def _without_padding(pixel_values: Tensor, shape: Sequence[int]) -> Tensor:
    for axis, size in enumerate(shape, start=2):
        pixel_values = pixel_values.narrow(axis, 0, size)
    return pixel_values


def load_image_tokenizer(folder: Path | str) -> VQVAE:
    """Load a trained VQ-VAE.

    Args:
        folder: where `train_vq` or `VQVAE.save_pretrained` wrote it.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        UserError: for a folder that holds none.

    Example:
        >>> import tempfile
        >>> from vqlm.vq import VQVAE, NetworkConfig, VQVAEConfig, load_image_tokenizer
        >>> model = VQVAE(VQVAEConfig(network=NetworkConfig(input_shape=[16, 16], hidden_channels=16)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     load_image_tokenizer(folder).config.code_shape
        (2, 2)
    """
    if not (Path(folder) / "config.json").exists():
        require_kind(folder, "image tokenizer")
    _require_type(Path(folder))
    try:
        VQVAEConfig.from_pretrained(str(folder))
    except Exception as error:  # ours and those of transformers
        reason = " ".join(str(error).split())[:240]
        raise UserError(f"{Path(folder) / 'config.json'} describes no image tokenizer: {reason}") from None
    try:  # in fp32, whatever it was saved in
        loaded: Any = VQVAE.from_pretrained(
            str(folder), dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except UserError:
        raise
    except Exception as error:  # a damaged config.json makes transformers raise almost anything
        raise UserError(
            f"{folder} does not load as an image tokenizer ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:160]}); {COPY_AGAIN}."
        ) from None
    model, found = loaded
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := sorted(name if isinstance(name, str) else str(name[0]) for name in found.get(kind) or ()):
            raise UserError(f"{folder}: its weights and config.json do not fit together, at {names[0]}; {COPY_AGAIN}.")
    model.eval()
    model.config.training_record = model.config.training_record or _record_of_run(Path(folder))
    return model


def _require_type(folder: Path) -> None:
    """Raises UserError for a folder whose config.json is of another model."""
    if read_json_object(folder / "config.json").get("model_type") != VQVAEConfig.model_type:
        require_kind(folder, "image tokenizer")


def _record_of_run(folder: Path) -> dict[str, Any] | None:
    """The training record from the folder of the run itself: a model before version 0.2.0 has it only there."""
    summary = folder / "run" / "summary.json"
    return read_json(summary) if summary.exists() else None


AutoConfig.register(VQVAEConfig.model_type, VQVAEConfig, exist_ok=True)
AutoModel.register(VQVAEConfig, VQVAE, exist_ok=True)
