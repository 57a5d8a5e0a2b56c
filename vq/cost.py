"""What a config of stage one costs: parameters, codes, FLOPs, memory, time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vqlm.training.machine.cost import Cost, TracedStep, peak_of, step_cost
from vqlm.training.machine.device import training_device
from vqlm.vq.config import VQVAEConfig
from vqlm.vq.losses import Objective
from vqlm.vq.model import VQVAE
from vqlm.vq.optimizers import build_optimizers
from vqlm.vq.settings import VQTrainingConfig


def cost_of_vq(model_config: VQVAEConfig, config: VQTrainingConfig, pictures: int = 0) -> Cost:
    """What training a VQ-VAE of these settings costs on this machine.

    Args:
        model_config: sizes of the network and the quantizer.
        config: batch size, optimizer, loss.
        pictures: how many to train on; they stay in memory as bytes.

    Example:
        >>> from vqlm.vq import NetworkConfig, VQTrainingConfig, VQVAEConfig
        >>> from vqlm.vq.cost import cost_of_vq
        >>> network = NetworkConfig(input_shape=[16, 16], stem_channels=8, hidden_channels=16)
        >>> cost = cost_of_vq(VQVAEConfig(network=network), VQTrainingConfig(max_steps=1, batch_size=4))
        >>> cost.codes_per_picture
        4
    """
    device = training_device()
    precision, peak = peak_of(config, device)
    build = _builder(model_config, config, precision, device)
    flops, memory, seconds = step_cost(build, config.batch_size, config, device)
    size = model_config.network.in_channels
    for side in model_config.network.input_shape:
        size *= side
    if pictures:
        memory = memory | {"pictures": pictures * size}
    model = VQVAE(model_config)
    parts = {name: _count(getattr(model, name)) for name in ("encoder", "quantizer", "decoder")}
    if not parts["quantizer"] and (codebook := model.quantizer.code_vectors()) is not None:
        parts["quantizer"] = codebook.numel()  # of running means
    return Cost(parts, model_config.tokens_per_image, config.batch_size, flops, memory, seconds, peak, precision)


def _count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _builder(
    model_config: VQVAEConfig, config: VQTrainingConfig, precision: str, device: torch.device
) -> Callable[[int], TracedStep]:
    network = model_config.network
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16

    def build(rows: int) -> TracedStep:
        model: Any = VQVAE(model_config).train().to(device)  # type: ignore[call-overload]
        pixel_values = torch.rand(rows, network.in_channels, *network.input_shape, device=device) * 2 - 1
        if network.spatial_dims == 2:
            model = model.to(memory_format=torch.channels_last)
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        objective = Objective(config.loss, model, 1.0, config.learning_rate, device)
        optimizers = build_optimizers(config.optimizer, model, config.learning_rate, config.weight_decay, config.beta2)
        adversary = objective.adversary
        if adversary is not None:
            adversary.discriminator.to(device)

        def compute() -> tuple[Any, Tensor | None]:
            with torch.autocast(device.type, dtype=dtype, enabled=precision != "no"):
                result = model(pixel_values)
            loss, _ = objective(result.reconstruction.float(), pixel_values, result.losses, is_judged=True)
            loss.backward()
            return result, None if adversary is None else result.reconstruction.detach()

        def update(computed: tuple[Any, Tensor | None]) -> None:
            result, reconstruction = computed
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            model.quantizer.update(result.vectors.detach(), result.codes)
            if adversary is not None and reconstruction is not None:
                adversary.discriminator_loss(reconstruction, pixel_values).backward()
                adversary.optimizer.step()
                adversary.optimizer.zero_grad()

        others = [] if adversary is None else [adversary]
        return TracedStep(
            compute, update,
            [model, *(other.discriminator for other in others)],
            [*optimizers, *(other.optimizer for other in others)],
        )  # fmt: skip

    return build
