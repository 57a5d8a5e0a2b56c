"""Training stage one, on pictures as tensors. Knows nothing of captions, nor where pictures come from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from transformers.utils import CONFIG_NAME

from vqlm.training.errors import UserError
from vqlm.training.folders.weight_files import WEIGHT_FILES
from vqlm.training.folders.whole_folder import save_whole
from vqlm.training.machine.batch_size import with_fitting_batch
from vqlm.training.machine.device import training_device
from vqlm.training.machine.distributed import num_processes, process_index, sum_numbers, sum_over_processes
from vqlm.training.machine.processes import with_launcher
from vqlm.training.run import Run
from vqlm.vq.config import VQVAEConfig
from vqlm.vq.inspection import usage_findings
from vqlm.vq.losses import Adversary, Objective
from vqlm.vq.metrics import CodeUsage, psnr
from vqlm.vq.model import VQVAE, require_finite
from vqlm.vq.optimizers import build_optimizers
from vqlm.vq.pixels import picture_grid, to_pixel_values
from vqlm.vq.samples import reconstructed_samples
from vqlm.vq.settings import VQTrainingConfig

GRID_PICTURES = 12
# The codebook starts from this many pictures, or from as many as give four vectors per code.
MIN_INITIAL_PICTURES = 64
# Before this share of the budget a codebook still settles, and poor usage is no finding.
WARN_FROM_SHARE = 0.25
# A variance up to this is the rounding error of equal values, summed in doubles.
ROUNDING = 1e-12
# Pictures whose values are checked at once, in doubles: more would take more memory than a training step.
CHECKED_AT_ONCE = 64

PictureTensor = UInt8[Tensor, "_ c *shape"] | Float[Tensor, "_ c *shape"]


class Pictures(Dataset):
    """(N, C, *shape) in memory, fetched one batch at a time."""

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
    """Train a VQ-VAE and save it, with held-out reconstructions, in `output`.

    Args:
        pictures: (N, C, *input_shape) to train on. Pictures are uint8 in [0, 255]; series, sound and volumes may be
            floating point in [-1, 1].
        held_out: (M, C, *input_shape), of the same kind, for evaluation only.
        output: folder of the finished model; the run's own files go to `run/` in it.
        model_config: sizes of the network and the quantizer.
        config: budget, optimizer, augmentation and loss.
        provenance: where the pictures came from, as JSON values. Only a run on the same ones is continued.
        resume: continue the run in `output`, if there is one.

    Returns:
        The trained model in evaluation mode, with the record of its training in `config.training_record`.

    Raises:
        UserError: if `output` holds another run, or any files without `resume`; for values that are not finite,
            outside [-1, 1], or all alike; if ten steps in a row give a gradient that is not finite.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from vqlm.vq import NetworkConfig, VQConfig, VQTrainingConfig, VQVAEConfig
        >>> from vqlm.vq.train import train_vq
        >>> pictures = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8)
        >>> network = NetworkConfig(input_shape=[16, 16], stem_channels=8, hidden_channels=16)
        >>> model_config = VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=16, codebook_dim=4))
        >>> config = VQTrainingConfig(max_steps=1, batch_size=8, mixed_precision="no")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model = train_vq(pictures[:12], pictures[12:], Path(folder), model_config, config)
        >>> model.config.code_shape
        (2, 2)
    """
    if config.find_batch_size:
        return with_fitting_batch(
            config, output, resume,
            lambda fitting: train_vq(pictures, held_out, output, model_config, fitting, provenance, resume),
        )  # fmt: skip
    data_variance = check_values(pictures, held_out)
    config = _with_precision(with_launcher(config), model_config)
    deciding = _deciding(model_config, config, pictures, provenance)
    run = Run(output, "train_vq", config, deciding, resume, len(pictures))
    if run.is_finished:
        run.say_finished()
        return VQVAE.from_pretrained(output)

    model = _in_fast_memory_format(VQVAE(model_config).train())
    pictures, held_out = model.fit_size(pictures), model.fit_size(held_out)
    objective = Objective(config.loss, model, data_variance, config.learning_rate, run.accelerator.device)
    optimizers = build_optimizers(config.optimizer, model, config.learning_rate, config.weight_decay, config.beta2)
    quantizer, adversary, code_usage = model.quantizer, objective.adversary, _LoggedUsage(model_config)
    model, loader, optimizers = _prepare(run, model, _loader(pictures, config, run), optimizers, adversary)
    if not run.is_resumed:
        initialize_codebook(run.accelerator.unwrap_model(model), pictures)
    run.show_samples(reconstructed_samples(run.accelerator.unwrap_model(model), held_out))

    seen: list[tuple[Tensor, Tensor]] = []  # by the quantizer, since its last update
    for batch in run.batches(loader):
        pixel_values = _in_fast_memory_format(augment(to_pixel_values(batch), config.flip, config.max_shift))
        result = model(pixel_values)
        is_judged = adversary is not None and adversary.judges(run.state.step, run.share)
        loss, figures = objective(result.reconstruction, pixel_values, result.losses, is_judged)
        if not run.step(loss, model, *optimizers):
            seen.clear()
            if adversary is not None:
                adversary.optimizer.zero_grad()
            continue
        seen.append((result.vectors.detach(), result.codes))
        if not run.is_accumulating:
            figures = {"revived": float(quantizer.update(*map(torch.cat, zip(*seen, strict=True))))} | figures
            seen.clear()
        if adversary is not None and is_judged:
            figures["discriminator_loss"] = adversary.discriminator_loss(result.reconstruction, pixel_values)
            run.step(figures["discriminator_loss"], adversary.discriminator, adversary.optimizer, name="discriminator")

        mse = F.mse_loss(result.reconstruction.detach(), pixel_values)
        figures |= {f"{name}_loss": value for name, value in result.losses.items()}
        run.log(loss=loss, psnr=10 * torch.log10(4 / mse), **figures)
        code_usage.add(*quantizer.by_codebook(result.codes))
        if run.is_next_due(config.log_interval):
            code_usage.log(run)
        if run.is_next_due(config.eval_interval):
            with run.averaged_weights():
                run.report(**evaluate_reconstruction(run.accelerator.unwrap_model(model), held_out))

    return _finish(run, run.accelerator.unwrap_model(model).eval(), held_out)


# Set-up and end of a training


def _with_precision(config: VQTrainingConfig, model_config: VQVAEConfig) -> VQTrainingConfig:
    """On a CPU the weight gradient of bf16 convolutions in three dimensions is sometimes not finite: "auto" is fp32."""
    is_volume = model_config.network.spatial_dims == 3
    if config.mixed_precision == "auto" and is_volume and training_device().type == "cpu":
        return replace(config, mixed_precision="no")
    return config


def _deciding(
    model_config: VQVAEConfig, config: VQTrainingConfig, pictures: PictureTensor, provenance: dict[str, Any] | None
) -> dict[str, Any]:
    """All settings that decide the result, by which `Run` recognises the same run."""
    settings = {"network": model_config.network, "quantizer": model_config.quantizer} | vars(config)
    if model_config.takes_pictures:
        settings |= {"background": model_config.background, "fit": model_config.fit}
    return settings | {"pictures": len(pictures)} | (provenance or {})


def _in_fast_memory_format(value: Any) -> Any:
    """A model of pictures, or pictures (B, C, H, W), with the channels last in memory; anything else as it is."""
    if isinstance(value, VQVAE):
        is_2d = value.config.network.spatial_dims == 2
        return value.to(memory_format=torch.channels_last) if is_2d else value  # type: ignore[call-overload]
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def _loader(pictures: PictureTensor, config: VQTrainingConfig, run: Run) -> DataLoader:
    return DataLoader(
        Pictures(pictures), config.batch_size, shuffle=True,
        drop_last=len(pictures) >= config.batch_size * run.accelerator.num_processes,
        collate_fn=_as_batch, num_workers=config.num_workers, generator=torch.Generator(),
    )  # fmt: skip


def _prepare(
    run: Run, model: VQVAE, loader: DataLoader, optimizers: list[Optimizer], adversary: Adversary | None
) -> tuple[Any, Any, list[Any]]:
    """`Run.prepare` for all that the training changes. The order is that of the files in a checkpoint."""
    if adversary is None:
        model, loader, *optimizers = run.prepare(model, loader, *optimizers)
    else:
        model, loader, adversary.discriminator, adversary.optimizer, *optimizers = run.prepare(
            model, loader, adversary.discriminator, adversary.optimizer, *optimizers
        )
    return model, loader, optimizers


class _LoggedUsage:
    """Perplexity and usage of the codebook between two log lines. Warns once if they are poor.

    A large codebook occurs too rarely between two lines to be judged: for the warning lines are joined.
    """

    def __init__(self, config: VQVAEConfig):
        self.config, self.has_warned = config, False
        self.usage, self.judged = (CodeUsage(config.codebook_size, config.quantizer.num_codebooks) for _ in range(2))

    def add(self, *codes: Tensor) -> None:
        self.usage.add(*codes)

    def log(self, run: Run) -> None:
        run.log(perplexity=self.usage.perplexity, usage=self.usage.usage)
        if not self.has_warned and run.share >= WARN_FROM_SHARE:
            self.judged.counts = self.judged.counts.to(self.usage.counts.device) + self.usage.counts
            if self.judged.is_telling:
                self._warn(run)
        self.usage.reset()

    def _warn(self, run: Run) -> None:
        judged, config = self.judged, self.config
        for finding in usage_findings(judged.usage, judged.perplexity, config.codebook_size, config.quantizer):
            run.progress.say(f"warning, step {run.state.step + 1}: {finding}")
            self.has_warned = True
        judged.reset()


def _finish(run: Run, model: VQVAE, held_out: PictureTensor) -> VQVAE:
    """Save the model with the record of its training, and pictures of what it does."""
    run.checkpoint()  # of the weights of the last step, where their average is saved
    drawing_error = None
    with run.averaged_weights():
        figures = run.final_report or evaluate_reconstruction(model, held_out)
        model.config.training_record = run.summary(**figures)
        if run.accelerator.is_main_process:
            save_whole(run.output, CONFIG_NAME, model.save_pretrained, replaced=[WEIGHT_FILES])
            try:
                save_reconstructions(model, held_out, run.output / "reconstructions.png")
            except Exception as error:  # the training is finished without it; after an interrupt it is drawn again
                drawing_error = error
    run.finish(**figures)
    if drawing_error is not None:
        raise drawing_error
    return model


# Parts of a training, each by itself


def check_values(*parts: PictureTensor) -> float:
    """The variance of the values of the first part, scaled to [-1, 1].

    Raises UserError for values that are not finite, outside that range, or all alike.
    """
    for pictures in parts:
        if pictures.is_floating_point():
            require_finite(pictures)
            if len(pictures) and pictures.abs().max() > 1:
                raise UserError(
                    f"Values must lie in [-1, 1], found {pictures.min():.3g} to {pictures.max():.3g}; scale them."
                )
    count, total, squares = 0, 0.0, 0.0  # in doubles: exact enough for any number of pictures
    for part in parts[0].split(CHECKED_AT_ONCE):
        values = to_pixel_values(part).double()
        count, total, squares = count + values.numel(), total + values.sum(), squares + values.square().sum()
    variance = float(squares / count - (total / count) ** 2)
    if not variance > ROUNDING:
        raise UserError(
            "All values of the pictures are equal; there is nothing to learn from them. Check the pictures."
        )
    return variance


@torch.no_grad()
def initialize_codebook(model: VQVAE, pictures: PictureTensor) -> None:
    """Start the codebook from the untrained encoder's outputs, the same on every process."""
    one_picture = torch.zeros(1, *model.config.code_shape, dtype=torch.int64)
    fewest = min(part.numel() for part in model.quantizer.by_codebook(one_picture))
    count = max(MIN_INITIAL_PICTURES, 4 * model.config.codebook_size // fewest)
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))[:count]
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
    """Held-out PSNR (mean over pictures, dB), perplexity and codebook usage of `pictures`.

    The processes of a training share the pictures; each must call it, and gets the figures of all of them.
    """
    was_training = model.training
    model.eval()
    usage = CodeUsage(model.config.codebook_size, model.config.quantizer.num_codebooks)
    share, total = pictures[process_index() :: num_processes()], 0.0
    for part in share.split(64) if len(share) else ():
        pixel_values = to_pixel_values(part).to(model.device)
        codes = model.encode(pixel_values)
        usage.add(*model.quantizer.by_codebook(codes))
        total += psnr(model.decode_codes(codes), pixel_values).sum().item()
    model.train(was_training)
    usage.counts = sum_over_processes(usage.counts.to(model.device))
    whole_total, whole_count = sum_numbers(total, len(share), device=model.device)
    return {
        "held_out_psnr_db": whole_total / whole_count,
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
