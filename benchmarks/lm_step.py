"""What makes a training step of stage two fast? The demo's model on OpenMoji's captions, variants in turns.

    python benchmarks/lm_step.py

Then rows of several numbers of codes in packs of the chosen length, and in those with the least padding, which are
longer. Tokens are counted without padding. Share of the peak: 6 * parameters * tokens per second, divided by the bf16
matrix peak. The first steps, which compile, are reported separately.
"""

import math
import time
from typing import NamedTuple

import torch
from measure import Report, Spread, choose, in_turns, parser
from our_steps import MODELS, LanguageStep, Rows

from vqlm.data_prep import SequenceConfig, batching
from vqlm.training.machine.allocator import keep_freed_memory

PLAIN = {"compile": False, "whole_vocabulary": True, "is_packed": False}
VARIANTS = {
    "plain: one row per pack, padded to the longest": PLAIN,
    "packed": {"compile": False, "whole_vocabulary": True},
    "packed, logits of ids that can occur": {"compile": False},
    "the same, compiled, fused attention": {"attention": "sdpa"},
    "the same, compiled, explicit attention (the default)": {},
    "the default with dropout on the embeddings": {"dropout": 0.1},
    "the default, one row per pack": {"is_packed": False},
}
# What attention to long packs is taken to cost when the pack length is chosen.
COSTS = {"the chosen pack length": batching.ATTENTION_LENGTH, "the least padding": math.inf}
WARM_UP = 2


class Settings(NamedTuple):
    model: str = "5M"
    rounds: int = 10
    variants: tuple[str, ...] = tuple(VARIANTS)
    most_rows: int | None = None
    codes: tuple[int, ...] = (64, 144, 256)


QUICK = Settings(rounds=3, variants=(*list(VARIANTS)[:3], list(VARIANTS)[4]), codes=(256,))
TINY = Settings("tiny", 1, tuple(list(VARIANTS)[:3]), 40, (4,))


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__).parse_args(arguments)
    settings = choose(options, Settings(), QUICK, TINY)
    keep_freed_memory()
    report = Report("lm_step", __doc__, options)
    rows, steps, first = Rows(most=settings.most_rows), {}, {}
    for name in settings.variants:
        steps[name] = LanguageStep(rows, MODELS[settings.model], sequences=SequenceConfig(), **VARIANTS[name])
        start = time.perf_counter()
        for _ in range(WARM_UP):
            steps[name]()
        first[name] = time.perf_counter() - start
    tokens: dict[str, list[int]] = {name: [] for name in steps}

    def counted(name: str) -> None:
        steps[name]()
        tokens[name].append(steps[name].tokens)

    timings = in_turns({name: lambda name=name: counted(name) for name in steps}, settings.rounds, warm_up=0)
    table = report.table(
        f"A step of about 32 rows, {settings.model}",
        ["variant", "step, ms", "padding", "tokens/s", "share of bf16 matrix peak", "first steps, s"],
    )
    for name, step in steps.items():
        mean = sum(tokens[name]) / len(tokens[name])
        padding = 1 - mean / (step.shape.packs * step.shape.pack_length)
        rates = Spread.of(mean / seconds for seconds in timings[name])
        share = 6 * step.parameters * rates.median / 1e9 / report.content["machine"]["bf16_gflops"]
        milliseconds = Spread.of(1000 * seconds for seconds in timings[name])
        table.row(name, milliseconds, f"{padding:.1%}", rates, share, first[name])
    by_pack_length(report, settings)
    return report.save()


def by_pack_length(report: Report, settings: Settings) -> None:
    table = report.table(
        f"A step of about 32 rows by the length of its packs, {settings.model}",
        ["codes", "packs have", "ids per pack", "step, ms"],
    )
    for codes in settings.codes:
        rows, steps = Rows(codes, settings.most_rows), {}
        for name, attention_length in COSTS.items():
            batching.ATTENTION_LENGTH = attention_length
            steps[name] = LanguageStep(rows, MODELS[settings.model], settings.model != "tiny")
        batching.ATTENTION_LENGTH = COSTS["the chosen pack length"]
        for name, seconds in in_turns(steps, settings.rounds, WARM_UP).items():
            table.row(codes, name, steps[name].shape.pack_length, Spread.of(1000 * value for value in seconds))
        torch.compiler.reset()


if __name__ == "__main__":
    main()
