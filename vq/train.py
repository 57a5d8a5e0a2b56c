"""Training stage one. Takes pictures as tensors; knows nothing of captions or of where pictures come from."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from vqlm.training.device import best_device
from vqlm.training.errors import UserError
from vqlm.training.run import Run
from vqlm.vq.config import VQVAEConfig
from vqlm.vq.inspection import usage_findings
from vqlm.vq.losses import Adversary, load_perceptual_network, reconstruction_loss
from vqlm.vq.metrics import CodeUsage, psnr
from vqlm.vq.model import VQVAE, require_finite
from vqlm.vq.optimizers import build_optimizers
from vqlm.vq.pixels import picture_grid, to_pixel_values
from vqlm.vq.settings import VQTrainingConfig

GRID_PICTURES = 12
# The codebook starts from the codes of this many pictures, or from as many as hold four vectors a code.
MIN_INITIAL_PICTURES = 64
# Before this share of the budget a codebook still settles, and what its use says is no finding.
WARN_FROM_SHARE = 0.25
# A variance below this is that of one and the same value, summed in doubles.
ROUNDING = 1e-12

PictureTensor = UInt8[Tensor, "_ c *shape"] | Float[Tensor, "_ c *shape"]


class Pictures(Dataset):
    """(N, C, *shape) in memory, fetched a batch at a time."""

    def __init__(self, pictures: PictureTensor):
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
    pictures: PictureTensor,
    held_out: PictureTensor,
    output: Path,
    model_config: VQVAEConfig,
    config: VQTrainingConfig,
    provenance: dict[str, Any] | None = None,
    resume: bool = False,
) -> VQVAE:
    """Train a VQ-VAE on `pictures` (N, C, *input_shape) and save it, with held-out reconstructions, in `output`.

    Pictures are uint8; series, sound and volumes may be floating point in [-1, 1]. `provenance` says where they came
    from; a run is only continued on the same. Raises UserError if `output` holds another run, or for values that are
    not finite, outside that range, or all alike.
    """
    data_variance = check_values(pictures, held_out)
    if config.mixed_precision == "auto" and model_config.network.spatial_dims == 3 and best_device().type == "cpu":
        # There the weight gradient of bf16 convolutions in three dimensions now and then is not finite.
        config = replace(config, mixed_precision="no")
    settings = {"network": asdict(model_config.network), "quantizer": asdict(model_config.quantizer)}
    settings |= asdict(config) | {"pictures": len(pictures)} | (provenance or {})
    run = Run(output, "train_vq", config, settings, resume)
    if run.is_finished:
        run.progress.say(f"{output} is finished already")
        return VQVAE.from_pretrained(output)

    model = VQVAE(model_config).train()
    pictures, held_out = model.fit_size(pictures), model.fit_size(held_out)
    if pictures.ndim == 4:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    quantizer, decoder, weights = model.quantizer, model.decoder, model.quantizer.loss_weights()
    terms, perceptual, adversary = config.loss, None, None
    if terms.perceptual_network and terms.perceptual_weight:
        perceptual = load_perceptual_network(terms.perceptual_network, model_config.network)
        perceptual = perceptual.to(run.accelerator.device)
    optimizers = build_optimizers(config.optimizer, model, config.learning_rate, config.weight_decay, config.beta2)
    loader = DataLoader(
        Pictures(pictures), config.batch_size, shuffle=True,
        drop_last=len(pictures) >= config.batch_size * run.accelerator.num_processes,
        collate_fn=_as_batch, num_workers=config.num_workers, generator=torch.Generator(),
    )  # fmt: skip
    if terms.adversarial_weight:
        adversary = Adversary(terms, model_config.network, config.learning_rate)
        model, loader, adversary.discriminator, adversary.optimizer, *optimizers = run.prepare(
            model, loader, adversary.discriminator, adversary.optimizer, *optimizers
        )
    else:
        model, loader, *optimizers = run.prepare(model, loader, *optimizers)
    if not run.is_resumed:
        initialize_codebook(run.accelerator.unwrap_model(model), pictures)

    usage, warned = CodeUsage(model_config.codebook_size, model_config.quantizer.num_codebooks), False
    for batch in run.batches(loader):
        pixel_values = augment(to_pixel_values(batch), config.flip, config.max_shift)
        if pixel_values.ndim == 4:
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        made = model(pixel_values)
        reconstruction = loss = reconstruction_loss(
            terms.reconstruction, made.reconstruction, pixel_values, data_variance
        )
        figures = {"reconstruction_loss": reconstruction}
        if perceptual is not None:
            figures["perceptual_loss"] = perceptual(made.reconstruction, pixel_values).mean()
            loss = loss + terms.perceptual_weight * figures["perceptual_loss"]
        is_judged = adversary is not None and run.state.step >= terms.adversarial_start
        if adversary is not None and is_judged:
            figures["generator_loss"] = adversary.generator_loss(loss, made.reconstruction, decoder)
            loss = loss + figures["generator_loss"]
        loss = loss + sum(weights[name] * value for name, value in made.losses.items())
        if not run.step(loss, model, *optimizers):
            continue
        revived = quantizer.update(made.z_e, made.codes)
        if adversary is not None and is_judged:
            figures["discriminator_loss"] = adversary.discriminator_loss(made.reconstruction, pixel_values)
            run.step(figures["discriminator_loss"], adversary.discriminator, adversary.optimizer)

        usage.add(*quantizer.by_codebook(made.codes))
        mse = F.mse_loss(made.reconstruction.detach(), pixel_values)
        run.log(
            psnr=10 * torch.log10(4 / mse), revived=float(revived),
            **figures, **{f"{name}_loss": value for name, value in made.losses.items()},
        )  # fmt: skip
        if run.is_next_due(config.log_every):
            run.log(perplexity=usage.perplexity, usage=usage.usage)
            if not warned and run.share >= WARN_FROM_SHARE and usage.is_telling:
                size = model_config.codebook_size
                for finding in usage_findings(usage.usage, usage.perplexity, size, model_config.quantizer):
                    run.progress.say(f"warning, step {run.state.step + 1}: {finding}")
                    warned = True
            usage.reset()
        if run.is_next_due(config.eval_every):
            run.report(**evaluate_reconstruction(run.accelerator.unwrap_model(model), held_out))

    model = run.accelerator.unwrap_model(model).eval()
    if run.accelerator.is_main_process:
        model.save_pretrained(output)
        save_reconstructions(model, held_out, output / "reconstructions.png")
    run.finish(**evaluate_reconstruction(model, held_out))
    return model


def check_values(*parts: PictureTensor) -> float:
    """The variance of the pixel values of the first part, in [-1, 1].

    Raises UserError for values that are not finite, outside that range, or all alike.
    """
    for pictures in parts:
        if pictures.is_floating_point():
            require_finite(pictures)
            if len(pictures) and pictures.abs().max() > 1:
                raise UserError(
                    f"Values must lie in [-1, 1], found {pictures.min():.3g} to {pictures.max():.3g}; scale them."
                )
    count, total, squares = 0, 0.0, 0.0  # in double: exact enough for any number of pictures
    for part in parts[0].split(1024):
        values = to_pixel_values(part).double()
        count, total, squares = count + values.numel(), total + values.sum(), squares + values.square().sum()
    variance = float(squares / count - (total / count) ** 2)
    if not variance > ROUNDING:
        raise UserError("All pictures are of one and the same colour; there is nothing to learn from them.")
    return variance


@torch.no_grad()
def initialize_codebook(model: VQVAE, pictures: PictureTensor) -> None:
    """Start the codebook from the untrained encoder's outputs, the same on every process."""
    one_picture = torch.zeros(1, *model.config.code_shape, dtype=torch.int64)
    fewest = min(part.numel() for part in model.quantizer.by_codebook(one_picture))
    wanted = max(MIN_INITIAL_PICTURES, 4 * model.config.codebook_size // fewest)
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
def evaluate_reconstruction(model: VQVAE, pictures: PictureTensor) -> dict[str, float]:
    """Held-out PSNR (mean over pictures, dB), perplexity and codebook usage of `pictures`."""
    was_training = model.training
    model.eval()
    usage = CodeUsage(model.config.codebook_size, model.config.quantizer.num_codebooks)
    values = []
    for part in pictures.split(64):
        pixel_values = to_pixel_values(part).to(model.device)
        codes = model.encode(pixel_values)
        usage.add(*model.quantizer.by_codebook(codes))
        values.append(psnr(model.decode_codes(codes), pixel_values))
    model.train(was_training)
    return {
        "held_out_psnr_db": torch.cat(values).mean().item(),
        "held_out_perplexity": usage.perplexity,
        "held_out_usage": usage.usage,
    }


@torch.no_grad()
def save_reconstructions(model: VQVAE, pictures: PictureTensor, path: Path) -> None:
    """The first held-out pictures above their reconstructions, in one picture file. Only for two dimensions."""
    if pictures.ndim != 4:
        return
    pixel_values = to_pixel_values(pictures[:: max(1, len(pictures) // GRID_PICTURES)][:GRID_PICTURES]).to(model.device)
    picture_grid([pixel_values, model.decode_codes(model.encode(pixel_values))]).save(path)
