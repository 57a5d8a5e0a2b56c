"""How do speed and memory of the language model grow with the length of a row, the batch and the model?

    python benchmarks/growth.py

Trains on rows of 64 to 4,096 ids with an equal number of ids per batch; draws 1 to 256 pictures at once; does both with
models of 1M to 300M parameters. nearest_codes.py measures growth with the codebook, opening.py and encoding_memory.py
growth with the collection.
"""

import time
from typing import NamedTuple

import torch
from drawing import OURS, Case, drawer
from measure import Report, Spread, choose, in_turns, memory_megabytes, parser, peak_megabytes
from our_steps import MODELS, LanguageStep, Rows

from vqlm.data_prep.sequences import ROW_OVERHEAD
from vqlm.training.machine.matrix_peak import matrix_peak


class Settings(NamedTuple):
    """lengths, batches, models: the sizes. ids: per batch while rows grow. steps, rounds: number measured."""

    lengths: tuple[int, ...] = (64, 256, 1024, 4096)
    ids: int = 4096
    batches: tuple[int, ...] = (1, 4, 16, 64, 256)
    models: tuple[str, ...] = ("1M", "5M", "20M", "85M", "300M")
    base: str = "5M"
    codes: int = 64
    steps: int = 3
    rounds: int = 3
    compile: bool = True
    peak_seconds: float = 1.0
    most_rows: int | None = None


QUICK = Settings((64, 512), 1024, (1, 16), ("1M", "5M"), steps=2, rounds=2, compile=False)
TINY = Settings((16, 32), 64, (1, 2), ("tiny",), "tiny", 4, 1, 1, False, 0.01, 40)


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__).parse_args(arguments)
    settings = choose(options, Settings(), QUICK, TINY)
    report = Report("growth", __doc__, options)
    by_length(report, settings)
    by_batch(report, settings)
    by_model(report, settings)
    return report.save()


def by_length(report: Report, settings: Settings) -> None:
    table = report.table(
        f"Training, {settings.base}, by the length of a row",
        ["ids per row", "rows per batch", "attention", "tokens/s", "peak memory of a step, MB"],
    )
    speeds, memory = {}, {}
    for attention, name in (("eager", "explicit attention"), ("sdpa", "fused attention")):
        speeds[name], memory[name] = [], []
        for length in settings.lengths:
            rows = Rows(length - ROW_OVERHEAD, settings.most_rows)
            rows.captions, rows.tokens = [""] * len(rows.captions), [[] for _ in rows.tokens]
            count = max(1, settings.ids // length)
            step = LanguageStep(
                rows, MODELS[settings.base], settings.compile, attention=attention, is_packed=False, batch_size=count
            )
            rates, peak = measure_steps(step, settings.steps)
            speeds[name].append((length, rates))
            memory[name].append((length, peak))
            table.row(length, count, name, rates, peak)
            torch.compiler.reset()
    report.plot("row-length", "Training by the length of a row", "ids per row", "tokens/s", speeds)
    report.plot("row-memory", "Memory by the length of a row", "ids per row", "peak memory of a step, MB", memory)


def by_batch(report: Report, settings: Settings) -> None:
    table = report.table(
        f"Drawing, {settings.base}, {settings.codes} codes, guided, by the batch",
        ["pictures at once", "s", "pictures/s"],
    )
    rows, points = Rows(settings.codes, settings.most_rows), []
    for pictures in settings.batches:
        case = Case(settings.base, pictures, settings.codes, 3.0, settings.rounds)
        (seconds,) = in_turns({OURS: drawer(case, rows, OURS)}, case.rounds).values()
        rates = Spread.of(pictures / value for value in seconds)
        points.append((pictures, rates))
        table.row(pictures, Spread.of(seconds), rates)
    report.plot("draw-batch", "Drawing by the batch", "pictures at once", "pictures/s", {settings.base: points})


def by_model(report: Report, settings: Settings) -> None:
    table = report.table(
        "By the size of the model: training 32 rows of 64 codes, drawing 16 guided pictures of 64 codes",
        ["model", "parameters", "training, tokens/s", "share of bf16 matrix peak", "peak memory of a step, MB",
         "drawing, pictures/s"],
    )  # fmt: skip
    rows, training, drawing = Rows(settings.codes, settings.most_rows), [], []
    for name in settings.models:
        step = LanguageStep(rows, MODELS[name], settings.compile)
        parameters = step.parameters
        rates, peak = measure_steps(step, settings.steps)
        flops = matrix_peak(torch.bfloat16, torch.device("cpu"), settings.peak_seconds)
        del step
        torch.compiler.reset()
        case = Case(name, 16, settings.codes, 3.0, settings.rounds)
        (seconds,) = in_turns({OURS: drawer(case, rows, OURS)}, case.rounds).values()
        pictures = Spread.of(16 / value for value in seconds)
        training.append((parameters, rates))
        drawing.append((parameters, pictures))
        table.row(name, parameters, rates, 6 * parameters * rates.median / flops / 1e9, peak, pictures)
    report.plot("model-training", "Training by the size of the model", "parameters", "tokens/s", {"here": training})
    report.plot("model-drawing", "Drawing by the size of the model", "parameters", "pictures/s", {"here": drawing})


def measure_steps(step: LanguageStep, steps: int) -> tuple[Spread, float]:
    """Tokens per second, and the peak in MB above what the process held before the step (weights and optimizer state
    included)."""
    for _ in range(2):  # compiles
        step()
    before, rates = memory_megabytes(reset_peak=True), []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        rates.append(step.tokens / (time.perf_counter() - start))
    return Spread.of(rates), max(0.0, peak_megabytes() - before)


if __name__ == "__main__":
    main()
