"""What are the limits of this machine: floating-point operations and bytes per second?

    python benchmarks/roofline.py

The other benchmarks give their speeds as shares of these. Copy and triad (a = b + s * c) as in McCalpin's STREAM, on
arrays larger than any cache; bytes read and bytes written both count.
"""

from typing import NamedTuple

import torch
from measure import Report, Spread, choose, in_turns, parser
from our_steps import MODELS, Rows

from vqlm.lm.model import build_language_model
from vqlm.training.machine.matrix_peak import matrix_peak


class Settings(NamedTuple):
    seconds: float = 2.0
    rounds: int = 5
    elements: int = 2**27
    models: tuple[str, ...] = ("5M", "85M")


TINY = Settings(0.01, 2, 2**16, ("tiny",))
NUM_CODES = 64


@torch.no_grad()
def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__).parse_args(arguments)
    settings = choose(options, Settings(), Settings(0.5, 3), TINY)
    report = Report("roofline", __doc__, options)
    a, b, c = (torch.ones(settings.elements) for _ in range(3))
    size, cpu = a.nbytes / 1e9, torch.device("cpu")
    timings = in_turns(
        {
            "bf16": lambda: matrix_peak(torch.bfloat16, cpu, settings.seconds),
            "fp32": lambda: matrix_peak(torch.float32, cpu, settings.seconds),
            "copy": lambda: a.copy_(b),
            "triad": lambda: torch.add(b, c, alpha=1.5, out=a),
        },
        settings.rounds,
    )
    table = report.table("Measured in turns", ["", "measured"])
    for name in ("bf16", "fp32"):
        table.row(f"matrix product of 2,048 in {name}, GFLOPS", Spread.of(timings[name]))
    bandwidth = Spread.of(3 * size / seconds for seconds in timings["triad"])
    table.row("copy, GB/s", Spread.of(2 * size / seconds for seconds in timings["copy"]))
    table.row("triad, GB/s", bandwidth)

    table = report.table(
        f"What follows for drawing {NUM_CODES} codes, without guidance, were there no cost but these",
        ["model", "weights in bf16, MB", "s, every weight read once per code", "s, products of one picture", "of 64"],
    )
    vocabulary = Rows(most=100).vocabulary
    for name in settings.models:
        weights = sum(weight.numel() for weight in build_language_model(MODELS[name], vocabulary, 128).parameters())
        products = 2 * weights * NUM_CODES / 1e9 / Spread.of(timings["bf16"]).median
        reading = 2 * weights * NUM_CODES / 1e9 / bandwidth.median
        table.row(name, 2 * weights / 1e6, reading, products, 64 * products)
    report.remark("Weights that stay in a cache are read faster than that.")
    return report.save()


if __name__ == "__main__":
    main()
