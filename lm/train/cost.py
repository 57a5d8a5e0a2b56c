"""What training stage two with given settings costs: parameters, codes, FLOPs, memory, time."""

import itertools
from dataclasses import replace

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from vqlm.data_prep.batching import CaptionLengths, PackedBatches, PackedRows, choose_shape
from vqlm.data_prep.prepared_set import PreparedSet
from vqlm.data_prep.sequences import ROW_OVERHEAD, RowCollator
from vqlm.data_prep.settings import SequenceConfig, TextConfig
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.code_embeddings import similar_codes
from vqlm.lm.loss import WeightedCrossEntropy
from vqlm.lm.model import add_embedding_dropout, build_language_model, checkpoint_gradients, choose_attention
from vqlm.lm.probes import supports_packing
from vqlm.lm.settings import LanguageModelConfig, LMTrainingConfig
from vqlm.lm.train.optimizers import build_optimizers
from vqlm.training.errors import UserError
from vqlm.training.machine.cost import Cost, TracedStep, peak_of, step_cost
from vqlm.training.machine.device import training_device

MADE_UP_CAPTIONS, MOST_WORDS = 2048, 5
CODEBOOK_DIM = 16


class RowsToTrain:
    """Rows to train on, with their vocabulary: those of a prepared set, or made-up ones if there is none yet.

    Args:
        vocabulary: of captions and codes.
        rows: a data set of {captions, caption_tokens, codes}.
        tokens_per_image: codes per picture.
    """

    def __init__(self, vocabulary: Vocabulary, rows: Dataset, tokens_per_image: int):
        self.vocabulary, self.rows, self.tokens_per_image = vocabulary, rows, tokens_per_image

    @classmethod
    def of(cls, prepared: PreparedSet) -> "RowsToTrain":
        return cls(prepared.vocabulary, prepared.train, prepared.tokens_per_image)

    @classmethod
    def made_up(cls, tokens_per_image: int, codebook_size: int) -> "RowsToTrain":
        """Captions of up to five made-up words, in a vocabulary of the default size."""
        random = np.random.default_rng(0)
        syllables = [first + vowel for first in "bcdfghklmnprstvw" for vowel in "aeiou"]
        words = ["".join(random.choice(syllables, random.integers(2, 4))) for _ in range(1500)]
        counts = random.integers(1, MOST_WORDS + 1, MADE_UP_CAPTIONS)
        captions = [" ".join(random.choice(words, count)) for count in counts]
        vocabulary = Vocabulary.build(captions, TextConfig(), {"image": codebook_size})
        codes = random.integers(codebook_size, size=(MADE_UP_CAPTIONS, tokens_per_image), dtype=np.uint16)
        rows = Dataset.from_dict(
            {
                "captions": [[caption] for caption in captions],
                "caption_tokens": [[count] for count in vocabulary.count_tokens(captions)],
                "codes": list(codes),
            }
        )
        return cls(vocabulary, rows, tokens_per_image)


def cost_of_lm(
    model_config: LanguageModelConfig, config: LMTrainingConfig, sequences: SequenceConfig, rows: RowsToTrain
) -> Cost:
    """What training a language model of these settings on `rows` costs on this machine, not compiled.

    Raises UserError for `init_from`: the sizes are then those of another model.
    """
    if config.init_from is not None:
        raise UserError("The cost of `init_from` is that of the model there; leave it out, and give its sizes.")
    device = training_device()
    precision, peak = peak_of(config, device)
    lengths = CaptionLengths(rows.rows, config.max_caption_tokens)
    length = ROW_OVERHEAD + int(lengths.tokens.max(initial=0)) + rows.tokens_per_image + 1
    model = build_language_model(model_config, rows.vocabulary, length)
    shape = choose_shape(
        lengths, config.batch_size, ROW_OVERHEAD + rows.tokens_per_image, rows.tokens_per_image, supports_packing(model)
    )

    def build(packs: int) -> TracedStep:
        return _step(model_config, config, sequences, rows, lengths, replace(shape, packs=packs), length, precision)

    flops, memory, seconds = step_cost(build, shape.packs, config, device)
    cost = Cost(_parameters(model), rows.tokens_per_image, config.batch_size, flops, memory, seconds, peak, precision)
    if config.compile != "no":
        cost.remarks.append("Compiled steps, the default of a longer training, need less memory and time.")
    return cost


def _parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters: of the embeddings, the blocks, and a head that is not tied to the embeddings."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    whole = sum(weight.numel() for weight in model.parameters())
    embeddings = inputs.weight.numel()
    head = 0 if outputs is None or outputs.weight is inputs.weight else outputs.weight.numel()
    return {"embeddings": embeddings, "blocks": whole - embeddings - head} | ({"head": head} if head else {})


def _step(
    model_config: LanguageModelConfig,
    config: LMTrainingConfig,
    sequences: SequenceConfig,
    rows: RowsToTrain,
    lengths: CaptionLengths,
    shape,
    length: int,
    precision: str,
) -> TracedStep:
    device = training_device()
    model = build_language_model(model_config, rows.vocabulary, length)
    choose_attention(model, device, shape.pack_length)
    add_embedding_dropout(model, config.embedding_dropout)
    if config.gradient_checkpointing:
        checkpoint_gradients(model)
    codebook = torch.randn(rows.vocabulary.image.size, CODEBOOK_DIM)
    objective = WeightedCrossEntropy(
        model, rows.vocabulary, config.text_weight, config.image_weight, config.caption_weight, config.label_smoothing,
        config.neighbor_smoothing, similar_codes(codebook),
    ).train().to(device)  # fmt: skip
    optimizers = build_optimizers(config.optimizer, model, config.learning_rate, config.weight_decay, config.beta2)
    drawn = itertools.cycle(PackedBatches(lengths, shape, config.seed, sequences.caption_dropout))
    packed = PackedRows(rows.rows, rows.tokens_per_image)
    collate = RowCollator(rows.vocabulary, int(lengths.tokens.max(initial=0)), sequences)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16

    def compute() -> None:
        batch = collate(packed.__getitems__(next(drawn)), shape).to(device)  # of other sizes in each step
        with torch.autocast(device.type, dtype=dtype, enabled=precision != "no"):
            loss = objective(**vars(batch)).loss
        loss.backward()

    def update(_: None) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return TracedStep(compute, update, [objective], optimizers)
