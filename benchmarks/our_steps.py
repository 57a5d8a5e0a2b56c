"""One training step of each stage, as in vq/train.py and lm/train/loop.py, for the benchmarks.

Logs, evaluations and checkpoints are left out, since not every step has them. A step reads and builds its batch;
`waited` is the time for that.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.utils.data import DataLoader

from vqlm.data_prep import RowCollator, SequenceConfig, Vocabulary
from vqlm.data_prep.batching import CaptionLengths, PackedBatches, PackedRows, choose_shape
from vqlm.data_prep.sequences import ROW_OVERHEAD
from vqlm.data_prep.sources.openmoji import captions_by_code_points
from vqlm.lm.code_embeddings import similar_codes
from vqlm.lm.loss import WeightedCrossEntropy
from vqlm.lm.model import add_embedding_dropout, build_language_model
from vqlm.lm.settings import LanguageModelConfig, LMTrainingConfig
from vqlm.lm.train.optimizers import build_optimizers
from vqlm.training.machine.device import is_bf16_fast
from vqlm.training.optimization.gradients import Gradients
from vqlm.vq import VQVAE, VQVAEConfig, to_pixel_values
from vqlm.vq.losses import reconstruction_loss
from vqlm.vq.optimizers import build_optimizers as build_vq_optimizers
from vqlm.vq.settings import VQTrainingConfig
from vqlm.vq.train import Pictures, check_values, initialize_codebook

CPU = torch.device("cpu")
CODEBOOK_SIZE, TEXT_SIZE = 1024, 1500
# By their parameters without the embeddings of 2,526 ids; "tiny" is for tests.
MODELS = {
    "tiny": LanguageModelConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2),
    "1M": LanguageModelConfig(hidden_size=128, intermediate_size=320, num_hidden_layers=4, num_attention_heads=2),
    "5M": LanguageModelConfig(),
    "20M": LanguageModelConfig(hidden_size=448, intermediate_size=1152, num_hidden_layers=8, num_attention_heads=7),
    "85M": LanguageModelConfig(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12),
    "300M": LanguageModelConfig(hidden_size=1024, intermediate_size=2752, num_hidden_layers=24, num_attention_heads=16),
}
EQUAL = SequenceConfig(caption_dropout=0.0)  # rows of the same length as a peer's


class Rows:
    """At most `most` rows of OpenMoji's names and random codes, as in a prepared set."""

    def __init__(self, num_codes: int = 64, most: int | None = None):
        self.captions = [names[0] for names in captions_by_code_points(["en"]).values()][:most]
        self.vocabulary = Vocabulary.train(self.captions, TEXT_SIZE, {"image": CODEBOOK_SIZE})
        self.tokens = self.vocabulary.encode_text(self.captions)
        self.num_codes = num_codes
        random = np.random.default_rng(0)
        self.codes = random.integers(CODEBOOK_SIZE, size=(len(self.captions), num_codes), dtype=np.uint16)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest caption."""
        return max(map(len, self.tokens))

    @property
    def tokens_a_row(self) -> float:
        """Mean number of predicted ids per row: caption, boi, codes, eoi, eos."""
        return self.num_codes + ROW_OVERHEAD + float(np.mean([len(ids) for ids in self.tokens]))

    def dataset(self) -> Dataset:
        captions, tokens = [[text] for text in self.captions], [[len(ids)] for ids in self.tokens]
        return Dataset.from_dict({"captions": captions, "caption_tokens": tokens, "codes": list(self.codes)})


class LanguageStep:
    """A step of stage two with AdamW. waited: seconds the last step spent on its batch. tokens: of its rows.

    precision: "bf16", "fp16" or "no"; by default bf16 where the device multiplies it fast. skipped: steps in fp16 whose
    gradient overflowed. last_loss: waits for the device.
    """

    waited = 0.0
    tokens = 0
    skipped = 0

    def __init__(
        self,
        rows: Rows,
        model_config: LanguageModelConfig,
        compile: bool = True,
        whole_vocabulary: bool = False,
        attention: str = "eager",
        dropout: float = LMTrainingConfig.embedding_dropout,
        is_packed: bool = True,
        batch_size: int = 32,
        sequences: SequenceConfig = EQUAL,
        dataset: Dataset | None = None,
        device: torch.device = CPU,
        precision: str | None = None,
    ):
        torch.manual_seed(0)
        self.device, precision = device, precision or ("bf16" if is_bf16_fast(device) else "no")
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": None}[precision]
        is_scaled = precision == "fp16" and device.type == "cuda"
        self.gradients = Gradients(1, GradScaler(device.type) if is_scaled else None)
        config = LMTrainingConfig(optimizer="adamw", learning_rate=2e-3)
        train = dataset or rows.dataset()
        lengths, overhead = CaptionLengths(train, rows.longest), ROW_OVERHEAD + rows.num_codes
        self.shape = choose_shape(lengths, batch_size, overhead, rows.num_codes, is_packed)
        self.model = build_language_model(model_config, rows.vocabulary, overhead + rows.longest + 1)
        self.model.set_attn_implementation(attention)
        add_embedding_dropout(self.model, dropout)
        self.objective = WeightedCrossEntropy(
            self.model, rows.vocabulary, config.text_weight, config.image_weight, config.caption_weight,
            config.label_smoothing, config.neighbor_smoothing, similar_codes(torch.randn(CODEBOOK_SIZE, 16)),
        ).train().to(device)  # fmt: skip
        self.objective.has_plain_head &= not whole_vocabulary
        self.optimizers = build_optimizers("adamw", self.model, config.learning_rate, 0.1, config.beta2)
        self.max_norm = config.max_grad_norm
        batches = PackedBatches(lengths, self.shape, config.seed, sequences.caption_dropout)
        loader = DataLoader(PackedRows(train, rows.num_codes), batch_sampler=batches, collate_fn=list)
        self.packs, self.collate = repeated(loader), RowCollator(rows.vocabulary, self.shape.longest_caption, sequences)
        if compile:
            self.objective.compile_parts()

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())

    def __call__(self) -> None:
        start = time.perf_counter()
        batch = self.collate(next(self.packs), self.shape)
        self.waited, self.tokens = time.perf_counter() - start, batch.num_tokens
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            self.loss = self.objective(**vars(batch)).loss
        self.gradients.add(self.loss, None)
        norm = self.gradients.finish(self.model, self.optimizers, self.max_norm)
        is_finite = bool(torch.isfinite(norm))
        self.skipped += not is_finite
        for optimizer in self.optimizers:
            if is_finite:
                optimizer.step()
            optimizer.zero_grad()
        self.gradients.update_scale()

    @property
    def last_loss(self) -> float:
        return self.loss.item()


class TokenizerStep:
    """A step of stage one with its default settings, except for `changed`."""

    waited = 0.0

    def __init__(self, pictures: Tensor, model_config: VQVAEConfig, **changed: Any):
        torch.manual_seed(0)
        config = VQTrainingConfig(**changed)
        self.batch_size, self.max_norm, self.loss = config.batch_size, config.max_grad_norm, config.loss
        self.data_variance = check_values(pictures)
        self.model = VQVAE(model_config).train().to(memory_format=torch.channels_last)
        self.optimizers = build_vq_optimizers(
            config.optimizer, self.model, config.learning_rate, config.weight_decay, config.beta2
        )
        loader = DataLoader(
            Pictures(pictures), config.batch_size, shuffle=True, drop_last=True, collate_fn=lambda batch: batch
        )
        self.batches = repeated(loader)
        initialize_codebook(self.model, pictures)

    def __call__(self) -> None:
        start = time.perf_counter()
        pixel_values = to_pixel_values(next(self.batches)).contiguous(memory_format=torch.channels_last)
        self.waited = time.perf_counter() - start
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16_fast(torch.device("cpu"))):
            output = self.model(pixel_values)
        loss = reconstruction_loss(self.loss.reconstruction, output.reconstruction, pixel_values, self.data_variance)
        weights = self.model.quantizer.loss_weights()
        loss = loss + sum(weights[name] * value for name, value in output.losses.items())
        update(loss, self.model, self.optimizers, self.max_norm)
        self.model.quantizer.update(output.vectors, output.codes)


def repeated(loader: Iterable[Any]) -> Iterator[Any]:
    """Yields batches, one epoch after the other."""
    while True:
        yield from loader


def update(loss: Tensor, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], max_norm: float) -> None:
    """Backward, clip, step, as `vqlm.training.run.Run.step`."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
