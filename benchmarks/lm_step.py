"""What makes a training step of stage two fast? The demo's model on OpenMoji's captions, variants in one run.

    python benchmarks/lm_step.py

Prints the machine, the versions, the date and a table; compare within one run only. Tokens are those of rows, without
padding.
"""

import argparse
import datetime
import statistics
import time
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset

from data_prep import RowCollator, SequenceConfig, Vocabulary
from data_prep.batching import CaptionLengths, PackedBatches, choose_shape
from data_prep.sequences import ROW_OVERHEAD
from data_prep.sources.openmoji import captions_by_code_points
from lm.model import LanguageModelConfig, add_embedding_dropout, build_language_model
from lm.objective import WeightedCrossEntropy
from training.machine import describe_machine, is_bf16_fast, keep_freed_memory

NUM_CODES, CODEBOOK_SIZE, BATCH, WARM_UP = 64, 1024, 32, 2
VARIANTS = {
    "plain: a row a pack, padded to the longest": {"compile": False, "whole_vocabulary": True, "is_packed": False},
    "packed": {"compile": False, "whole_vocabulary": True},
    "packed, logits of ids that can occur": {"compile": False},
    "the same, compiled, fused attention": {"attention": "sdpa"},
    "the same, compiled, explicit attention": {},
    "the same, no dropout": {"dropout": 0.0},
    "the same as the last but one, a row a pack": {"is_packed": False},
}


class Timing(NamedTuple):
    """seconds: of a step, median; tokens: of a step, mean, without padding; padding: its share of a batch; warm_up:
    seconds of the first steps; parameters: of the model."""

    seconds: float
    tokens: float
    padding: float
    warm_up: float
    parameters: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="counted steps of each variant")
    steps = parser.parse_args().steps
    keep_freed_memory()
    machine = describe_machine()
    print(f"{datetime.date.today()}  {machine}\n")
    print(
        f"| variant | step, ms (median of {steps}) | padding | tokens/s | share of matrix peak | first steps, s |\n"
        "|---|---|---|---|---|---|"
    )
    for name, variant in VARIANTS.items():
        made = time_steps(steps, **variant)
        rate = made.tokens / made.seconds
        share = 6 * made.parameters * rate / 1e9 / machine["bf16_gflops"]
        print(
            f"| {name} | {1000 * made.seconds:.0f} | {100 * made.padding:.1f}% | {rate:.0f} | {100 * share:.0f}% "
            f"| {made.warm_up:.1f} |",
            flush=True,
        )


def time_steps(
    steps: int,
    compile: bool = True,
    whole_vocabulary: bool = False,
    attention: str = "eager",
    dropout: float = 0.1,
    is_packed: bool = True,
) -> Timing:
    torch.manual_seed(0)
    captions = [names[0] for names in captions_by_code_points(["en"]).values()]
    vocabulary = Vocabulary.train(captions, 1500, {"image": CODEBOOK_SIZE})
    tokens = [[len(ids)] for ids in vocabulary.encode_text(captions)]
    lengths = CaptionLengths(Dataset.from_dict({"caption_tokens": tokens}), int(np.max(tokens)))
    shape = choose_shape(lengths, BATCH, NUM_CODES + ROW_OVERHEAD, NUM_CODES, is_packed)
    model = build_language_model(LanguageModelConfig(), vocabulary, 128)
    model.set_attn_implementation(attention)
    add_embedding_dropout(model, dropout)
    objective = WeightedCrossEntropy(model, vocabulary, text_weight=0.1, image_weight=1.0).train()
    objective.has_plain_head &= not whole_vocabulary
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4, fused=True)
    sequences = SequenceConfig()
    collate = RowCollator(vocabulary, shape.longest_caption, sequences)
    batches = PackedBatches(lengths, shape, seed=0, caption_dropout=sequences.caption_dropout)
    run = torch.compile(objective, dynamic=False) if compile else objective
    codes = np.random.default_rng(0).integers(CODEBOOK_SIZE, size=(len(captions), NUM_CODES))
    times, counts = [], []
    for _, drawn in zip(range(steps + WARM_UP), batches, strict=False):
        start = time.perf_counter()
        packs = [[{"caption": captions[row.row], "codes": codes[row.row]} for row in pack] for pack in drawn]
        batch = collate(packs, shape)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16_fast(torch.device("cpu"))):
            loss = run(**vars(batch)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
        counts.append(batch.num_tokens)
    parameters = sum(weight.numel() for weight in model.parameters())
    real = statistics.mean(counts)
    padding = 1 - real / (shape.packs * shape.pack_length)
    return Timing(statistics.median(times[WARM_UP:]), real, padding, sum(times[:WARM_UP]), parameters)


if __name__ == "__main__":
    main()
