"""What makes a training step of stage two fast? The demo's model on generated rows, variants in one run.

    python benchmarks/lm_step.py

Prints the machine, the versions, the date and a table; compare within one run only.
"""

import argparse
import datetime
import statistics
import time

import torch

from data_prep import SequenceConfig, TextToImageCollator, Vocabulary
from lm.model import LanguageModelConfig, add_embedding_dropout, build_language_model
from lm.objective import WeightedCrossEntropy
from training.machine import describe_machine, is_bf16_fast, keep_freed_memory

CAPTION_TOKENS, NUM_CODES, CODEBOOK_SIZE, BATCH = 19, 64, 1024, 32
VARIANTS = {
    "plain": {"compile": False, "whole_vocabulary": True},
    "logits of ids that can occur": {"compile": False},
    "the same, compiled, fused attention": {"attention": "sdpa"},
    "the same, compiled, explicit attention": {},
    "the same, no dropout": {"dropout": 0.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="counted steps of each variant")
    steps = parser.parse_args().steps
    keep_freed_memory()
    machine = describe_machine()
    print(f"{datetime.date.today()}  {machine}\n")
    print(
        f"| variant | step, ms (median of {steps}) | tokens/s | share of matrix peak | first steps, s |\n"
        "|---|---|---|---|---|"
    )
    for name, variant in VARIANTS.items():
        seconds, warm_up, parameters = time_steps(steps, **variant)
        tokens = BATCH * (CAPTION_TOKENS + NUM_CODES + 3) / seconds
        share = 6 * parameters * tokens / 1e9 / machine["bf16_gflops"]
        print(f"| {name} | {1000 * seconds:.0f} | {tokens:.0f} | {100 * share:.0f}% | {warm_up:.1f} |", flush=True)


def time_steps(
    steps: int, compile: bool = True, whole_vocabulary: bool = False, attention: str = "eager", dropout: float = 0.1
) -> tuple[float, float, int]:
    """Median seconds of a step, seconds of the first two, and the number of parameters."""
    torch.manual_seed(0)
    words = [f"word{number}" for number in range(2000)]
    vocabulary = Vocabulary.train(words, 1500, {"image": CODEBOOK_SIZE})
    model = build_language_model(LanguageModelConfig(), vocabulary, 128)
    model.set_attn_implementation(attention)
    add_embedding_dropout(model, dropout)
    objective = WeightedCrossEntropy(model, vocabulary, NUM_CODES, text_weight=0.1, image_weight=1.0).train()
    objective.has_plain_head &= not whole_vocabulary
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4, fused=True)
    collate = TextToImageCollator(vocabulary, CAPTION_TOKENS, SequenceConfig())
    run = torch.compile(objective, dynamic=False) if compile else objective
    rows = [{"caption": "word1 word2 word3", "codes": torch.randint(CODEBOOK_SIZE, (NUM_CODES,))} for _ in range(BATCH)]
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        batch = vars(collate(rows))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16_fast(torch.device("cpu"))):
            loss = run(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:]), sum(times[:2]), sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    main()
