"""One training step of each stage, as `vq/train.py` and `lm/train/loop.py` take it, on made-up data, to be timed."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from statistics import mean

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.optim import Optimizer

from vqlm.data_prep import SequenceConfig, TextConfig, Vocabulary
from vqlm.data_prep.batching import CaptionLengths, PackedBatches, PackedRows, choose_shape
from vqlm.data_prep.sequences import ROW_OVERHEAD, RowCollator
from vqlm.lm.code_embeddings import similar_codes
from vqlm.lm.loss import WeightedCrossEntropy
from vqlm.lm.model import build_language_model, choose_attention
from vqlm.lm.settings import LanguageModelConfig, LMTrainingConfig
from vqlm.lm.train.optimizers import build_optimizers as build_lm_optimizers
from vqlm.training.machine.allocator import keep_freed_memory
from vqlm.training.machine.device import best_device, is_bf16_fast
from vqlm.vq import VQVAE, NetworkConfig, VQVAEConfig, to_pixel_values
from vqlm.vq.losses import reconstruction_loss
from vqlm.vq.optimizers import build_optimizers as build_vq_optimizers
from vqlm.vq.settings import VQTrainingConfig
from vqlm.vq.train import initialize_codebook


def tokenizer_step(side: int, batch_size: int) -> Callable[[], None]:
    """A step of stage one on `batch_size` random pictures of `side` x `side`, with the default settings."""
    keep_freed_memory()
    device, config = best_device(), VQTrainingConfig()
    model = VQVAE(VQVAEConfig(network=NetworkConfig(input_shape=[side, side]))).train()
    model = model.to(device)  # type: ignore[call-overload]
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = build_vq_optimizers(config.optimizer, model, config.learning_rate, config.weight_decay, config.beta2)
    pictures = torch.randint(256, (2 * batch_size, 3, side, side), dtype=torch.uint8)
    initialize_codebook(model, pictures)
    pixel_values = to_pixel_values(pictures[:batch_size]).to(device).contiguous(memory_format=torch.channels_last)
    weights = model.quantizer.loss_weights()

    def step() -> None:
        with _autocast(device):
            output = model(pixel_values)
        loss = reconstruction_loss(config.loss.reconstruction, output.reconstruction, pixel_values, 1.0)
        loss = loss + sum(weights[name] * value for name, value in output.losses.items())
        _update(loss, model, optimizers, config.max_grad_norm)
        model.quantizer.update(output.vectors, output.codes)
        loss.item()  # waits for the device

    return step


def language_step(captions: list[str], num_codes: int, batch_size: int) -> tuple[Callable[[], None], float]:
    """A step of stage two on `captions` and random codes, not compiled, with the default settings; and the mean tokens
    per caption."""
    device, config = best_device(), LMTrainingConfig()
    codebook_size = VQVAEConfig().codebook_size
    vocabulary = Vocabulary.build(captions, TextConfig(), {"image": codebook_size})
    tokens = vocabulary.count_tokens(captions)
    random = np.random.default_rng(0)
    count = -(-batch_size * 2 // len(captions)) * len(captions)
    rows = Dataset.from_dict(
        {
            "captions": [[caption] for caption in captions * (count // len(captions))],
            "caption_tokens": [[number] for number in tokens * (count // len(captions))],
            "codes": list(random.integers(codebook_size, size=(count, num_codes), dtype=np.uint16)),
        }
    )
    longest = min(config.max_caption_tokens, max(tokens))
    lengths = CaptionLengths(rows, longest)
    shape = choose_shape(lengths, batch_size, ROW_OVERHEAD + num_codes, num_codes)
    model = build_language_model(LanguageModelConfig(), vocabulary, ROW_OVERHEAD + num_codes + longest + 1)
    choose_attention(model, device, shape.pack_length)
    objective = WeightedCrossEntropy(
        model, vocabulary, config.text_weight, config.image_weight, config.caption_weight, config.label_smoothing,
        config.neighbor_smoothing, similar_codes(torch.randn(codebook_size, 16)),
    ).train().to(device)  # fmt: skip
    optimizers = build_lm_optimizers(config.optimizer, model, config.learning_rate, config.weight_decay, config.beta2)
    packed = PackedRows(rows, num_codes)
    (packs, *_) = PackedBatches(lengths, shape, 0, 0.0)
    collate = RowCollator(vocabulary, longest, SequenceConfig())

    def step() -> None:
        batch = collate([packed[pack] for pack in packs], shape).to(device)
        with _autocast(device):
            loss = objective(**vars(batch)).loss
        _update(loss, model, optimizers, config.max_grad_norm)
        loss.item()

    return step, float(mean(tokens))


def _autocast(device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_bf16_fast(device))


def _update(loss: Tensor, model: nn.Module, optimizers: Iterable[Optimizer], max_norm: float) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
