"""Training stage one. Takes pictures as tensors; knows nothing of captions or of where pictures come from."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.config import TrainingConfig
from training.run import Run
from vq.config import VQVAEConfig
from vq.metrics import CodeUsage, psnr
from vq.model import VQVAE
from vq.pictures import picture_grid, to_pixel_values

GRID_PICTURES = 12
# The codebook starts from the codes of this many pictures, or from as many as hold four vectors a code.
MIN_INITIAL_PICTURES = 64


@dataclass(kw_only=True)
class VQTrainingConfig(TrainingConfig):
    """Stage one's own settings.

    Args:
        flip: probability of mirroring a picture left to right.
        max_shift: pictures are moved by up to this many pixels, their edges repeated.
    """

    default_steps: ClassVar[int] = 2000

    flip: float = 0.0
    max_shift: int = 0


class Pictures(Dataset):
    """(N, C, *shape) uint8 in memory, fetched a batch at a time."""

    def __init__(self, pictures: UInt8[Tensor, "n c *shape"]):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.pictures[index]

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.pictures[indices]


def _as_batch(pictures: Tensor | list[Tensor]) -> Tensor:
    return pictures if isinstance(pictures, Tensor) else torch.stack(pictures)


def train_vq(
    pictures: UInt8[Tensor, "n c *shape"],
    held_out: UInt8[Tensor, "m c *shape"],
    output: Path,
    model_config: VQVAEConfig,
    config: VQTrainingConfig,
    provenance: dict[str, Any] | None = None,
    resume: bool = False,
) -> VQVAE:
    """Train a VQ-VAE on `pictures` (N, C, *input_shape) uint8 and save it, with held-out reconstructions, in `output`.

    `provenance` says where the pictures came from; a run is only continued on the same.
    Raises UserError if `output` holds another run.
    """
    settings = {"network": asdict(model_config.network), "quantizer": asdict(model_config.quantizer)}
    settings |= asdict(config) | {"pictures": len(pictures)} | (provenance or {})
    run = Run(output, "train_vq", config, settings, resume)
    if run.is_finished:
        run.progress.say(f"{output} is finished already")
        return VQVAE.from_pretrained(output)

    model = VQVAE(model_config).train()
    if pictures.ndim == 4:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data_variance = to_pixel_values(pictures[:: max(1, len(pictures) // 1024)]).var().item()
    quantizer, weights = model.quantizer, model.quantizer.loss_weights()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay,
        betas=(0.9, config.beta2), fused=True,
    )  # fmt: skip
    loader = DataLoader(
        Pictures(pictures), config.batch_size, shuffle=True,
        drop_last=len(pictures) >= config.batch_size * run.accelerator.num_processes,
        collate_fn=_as_batch, num_workers=config.num_workers, generator=torch.Generator(),
    )  # fmt: skip
    model, optimizer, loader = run.prepare(model, optimizer, loader)
    if not run.is_resumed:
        initialize_codebook(run.accelerator.unwrap_model(model), pictures)

    usage = CodeUsage(model_config.codebook_size, model_config.quantizer.codes_per_position)
    for batch in run.batches(loader):
        pixel_values = augment(to_pixel_values(batch), config.flip, config.max_shift)
        if pixel_values.ndim == 4:
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        made = model(pixel_values)
        mse = F.mse_loss(made.reconstruction, pixel_values)
        # Divided by the data's variance as in Sonnet's example, so that the weights mean the same for any pictures.
        loss = mse / data_variance + sum(weights[name] * value for name, value in made.losses.items())
        run.step(loss, model, optimizer)
        revived = quantizer.update(made.z_e, made.codes)

        usage.add(made.codes)
        run.log(
            reconstruction_loss=mse / data_variance, psnr=10 * torch.log10(4 / mse.detach()),
            revived=float(revived), **{f"{name}_loss": value for name, value in made.losses.items()},
        )  # fmt: skip
        if run.is_next_due(config.log_every):
            run.log(perplexity=usage.perplexity, usage=usage.usage)
            usage.reset()
        if run.is_next_due(config.eval_every):
            run.report(**evaluate_reconstruction(run.accelerator.unwrap_model(model), held_out))

    model = run.accelerator.unwrap_model(model).eval()
    if run.accelerator.is_main_process:
        model.save_pretrained(output)
        save_reconstructions(model, held_out, output / "reconstructions.png")
    run.finish(**evaluate_reconstruction(model, held_out))
    return model


@torch.no_grad()
def initialize_codebook(model: VQVAE, pictures: UInt8[Tensor, "n c *shape"]) -> None:
    """Start the codebook from the untrained encoder's outputs, the same on every process."""
    wanted = max(MIN_INITIAL_PICTURES, 4 * model.config.codebook_size // model.config.tokens_per_image)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))[:wanted]
    z_e = [model.encode_continuous(to_pixel_values(part).to(model.device)) for part in pictures[order].split(64)]
    model.quantizer.initialize(torch.cat(z_e))


def augment(pixel_values: Tensor, flip: float, max_shift: int) -> Tensor:
    """Mirror each picture with probability `flip`; move the batch by up to `max_shift` pixels on every axis."""
    if flip:
        mirrored = torch.rand(len(pixel_values), device=pixel_values.device) < flip
        mirrored = mirrored.view(-1, *[1] * (pixel_values.ndim - 1))
        pixel_values = torch.where(mirrored, pixel_values.flip(-1), pixel_values)
    if max_shift:
        shape = pixel_values.shape[2:]
        padded = F.pad(pixel_values, [max_shift] * (2 * len(shape)), mode="replicate")
        starts = torch.randint(0, 2 * max_shift + 1, (len(shape),)).tolist()
        for axis, (start, size) in enumerate(zip(starts, shape, strict=True), start=2):
            padded = padded.narrow(axis, start, size)
        pixel_values = padded
    return pixel_values


@torch.no_grad()
def evaluate_reconstruction(model: VQVAE, pictures: UInt8[Tensor, "n c *shape"]) -> dict[str, float]:
    """Held-out PSNR (mean over pictures, dB), perplexity and codebook usage of `pictures`."""
    was_training = model.training
    model.eval()
    usage = CodeUsage(model.config.codebook_size, model.config.quantizer.codes_per_position)
    values = []
    for part in pictures.split(64):
        pixel_values = to_pixel_values(part).to(model.device)
        codes = model.encode(pixel_values)
        usage.add(codes)
        values.append(psnr(model.decode_codes(codes), pixel_values))
    model.train(was_training)
    return {
        "held_out_psnr_db": torch.cat(values).mean().item(),
        "held_out_perplexity": usage.perplexity,
        "held_out_usage": usage.usage,
    }


@torch.no_grad()
def save_reconstructions(model: VQVAE, pictures: UInt8[Tensor, "n c *shape"], path: Path) -> None:
    """The first held-out pictures above their reconstructions, in one picture file. Only for two dimensions."""
    if pictures.ndim != 4:
        return
    pixel_values = to_pixel_values(pictures[:: max(1, len(pictures) // GRID_PICTURES)][:GRID_PICTURES]).to(model.device)
    picture_grid([pixel_values, model.decode_codes(model.encode(pixel_values))]).save(path)
