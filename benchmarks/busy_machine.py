"""What does one busy program beside it cost a training and a drawing, and what does a free machine lose by our remedy?

    python benchmarks/busy_machine.py

`vqlm` has OpenMP's threads spin for a short time only, by GOMP_SPINCOUNT (vqlm/__init__.py). Each figure is of a new
process, since OpenMP reads the variable once: with it, with OpenMP's own default, and with one thread.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from measure import Report, Spread, choose, in_turns, parser

import vqlm  # noqa: F401 (sets GOMP_SPINCOUNT)

OURS, DEFAULT, ONE = "vqlm", "OpenMP's default", "one thread"
ENVIRONMENTS = {
    OURS: {},
    DEFAULT: {"GOMP_SPINCOUNT": "300000"},  # what libgomp takes where nothing is set
    ONE: {"OMP_NUM_THREADS": "1"},
}


def main(arguments: list[str] | None = None) -> dict | None:
    options = parser(__doc__)
    options.add_argument("--measure", choices=["training", "drawing"], help="print one figure; used by child processes")
    options = options.parse_args(arguments)
    rounds, size = choose(options, (3, []), (2, ["--quick"]), (1, []))
    if options.measure:
        print(seconds_of(options.measure, options))
        return None
    report = Report("busy_machine", __doc__, options)
    table = report.table("Seconds", ["", "environment", "on a free machine", "beside a busy program", "times"])
    for task in ("training", "drawing"):

        def measured(name: str, task: str = task) -> float:
            if options.tiny:
                return seconds_of(task, options)
            command = [sys.executable, __file__, *size, "--measure", task]
            environment = os.environ | ENVIRONMENTS[name]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            return float(done.stdout.split()[-1])

        tasks = {name: lambda name=name: measured(name) for name in ENVIRONMENTS}
        free = in_turns(tasks, rounds, warm_up=0)
        with busy_program():
            busy = in_turns(tasks, rounds, warm_up=0)
        for name in ENVIRONMENTS:
            alone, beside = Spread.of(free[name]), Spread.of(busy[name])
            table.row(task, name, alone, beside, beside.median / alone.median)
    report.remark("Training: a step of the 5M model, not compiled. Drawing: 16 guided pictures of 64 codes.")
    return report.save()


@contextlib.contextmanager
def busy_program() -> Iterator[None]:
    """Another program that keeps one core busy."""
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def seconds_of(task: str, options: argparse.Namespace) -> float:
    """Median seconds of the task in this process, after a first time."""
    from drawing import OURS, Case, drawer
    from our_steps import MODELS, LanguageStep, Rows

    repeats, model, pictures, codes, most = choose(
        options, (4, "5M", 16, 64, None), (2, "5M", 4, 64, None), (1, "tiny", 1, 4, 40)
    )
    rows = Rows(codes, most=most)
    if task == "training":
        run = LanguageStep(rows, MODELS[model], compile=False)
    else:
        run = drawer(Case(model, pictures, codes, 3.0, 1), rows, OURS)
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return Spread.of(times).median


if __name__ == "__main__":
    main()
