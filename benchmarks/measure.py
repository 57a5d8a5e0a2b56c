"""What the benchmarks share: settings by size, turns, spreads, memory, and reports that are printed and kept as JSON.

A benchmark is the `main(arguments)` of a file. It runs ours and the peers in turns, fills the tables of a `Report` and
saves it as `outputs/bench/NAME.json`, which report.py reads.
"""

import argparse
import ctypes
import datetime
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vqlm.training.folders.whole_files import write_json
from vqlm.training.machine.matrix_peak import describe_machine

RESULTS = Path("outputs/bench")
Settings = TypeVar("Settings")


class Spread(NamedTuple):
    """Median, least and most of several measurements."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))


# Settings


def parser(question: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    arguments = argparse.ArgumentParser(description=question, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = arguments.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a small form, for a first look")
    size.add_argument(
        "--tiny", action="store_true", help="seconds long: shows that the program works, measures nothing"
    )
    arguments.add_argument("--output", type=Path, default=RESULTS, help="folder for the result as JSON")
    return arguments


def choose(arguments: argparse.Namespace, full: Settings, quick: Settings, tiny: Settings) -> Settings:
    return tiny if arguments.tiny else quick if arguments.quick else full


# Time and memory


def in_turns(tasks: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every task in each round, in the order a, b, a, b, ..., so that a machine that slows down affects all.

    A task that returns a float has measured something itself, and that is taken. The first `warm_up` rounds are not.
    """
    timings: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(warm_up + rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            result = task()
            seconds = time.perf_counter() - start
            if number >= warm_up:
                timings[name].append(result if isinstance(result, float) else seconds)
    return timings


def ratio(above: list[float], below: list[float]) -> Spread:
    """Ratio of the two in each round."""
    return Spread.of(a / b for a, b in zip(above, below, strict=True))


def memory_megabytes(reset_peak: bool = False) -> float:
    """Memory of this process in MB, after freed memory was returned; 0 where Linux does not report it."""
    if not Path("/proc/self/clear_refs").exists():
        return 0.0
    ctypes.CDLL(None).malloc_trim(0)  # or the next task would find what the last one left
    if reset_peak:
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_megabytes() -> float:
    """Peak memory of this process in MB since the peak was reset; 0 where Linux does not report it."""
    return _status("VmHWM") if Path("/proc/self/clear_refs").exists() else 0.0


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def in_child(file: str, *arguments: Any) -> list[float]:
    """Run this benchmark in a new process; returns the numbers in the last line that it prints."""
    done = subprocess.run([sys.executable, file, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


# Reports


class Table:
    """Rows of text, numbers and spreads, each printed when it is added. None is an empty cell."""

    def __init__(self, title: str, columns: list[str]):
        self.title, self.columns, self.rows = title, columns, []
        print(f"\n{title}\n\n" + "\n".join(table_head(columns)), flush=True)

    def row(self, *cells: str | float | Spread | None) -> None:
        assert len(cells) == len(self.columns), (cells, self.columns)
        self.rows.append([list(cell) if isinstance(cell, Spread) else cell for cell in cells])
        print(table_row(self.rows[-1]), flush=True)


def current_commit() -> str | None:
    """The commit that is checked out, with a + where tracked files have changed since; None outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


class Report:
    """The answer to a benchmark's question: machine, versions, command, date, commit, tables, remarks, curves.

    `packages` are the peers whose versions are told.
    """

    def __init__(self, name: str, question: str | None, arguments: argparse.Namespace, packages: Iterable[str] = ()):
        self.path = arguments.output / f"{name}.json"
        self.tables: list[Table] = []
        options = sys.argv[1:] if Path(sys.argv[0]).stem == name else []
        machine = describe_machine(0.01 if arguments.tiny else 1.0)
        self.content: dict[str, Any] = {
            "name": name,
            "question": (question or name).splitlines()[0],
            "command": " ".join(["python", f"benchmarks/{name}.py", *options]),
            "date": str(datetime.date.today()),
            "commit": current_commit(),
            "is_quick": arguments.quick or arguments.tiny,
            "machine": machine | {package: installed(package) for package in ("transformers", *packages)},
            "remarks": [],
            "plots": [],
        }
        print(f"{self.content['question']}\n{self.content['date']}  {self.content['command']}")
        print(json.dumps(self.content["machine"]), flush=True)

    def table(self, title: str, columns: list[str]) -> Table:
        self.tables.append(Table(title, columns))
        return self.tables[-1]

    def remark(self, text: str) -> None:
        self.content["remarks"].append(text)
        print(f"\n{text}", flush=True)

    def plot(
        self, name: str, title: str, x: str, y: str, series: dict[str, list[tuple[float, Spread | float]]]
    ) -> None:
        """Add a plot with one curve per series and logarithmic axes."""
        points = {
            label: [[at, *(value if isinstance(value, Spread) else (value,) * 3)] for at, value in values]
            for label, values in series.items()
        }
        self.content["plots"].append({"name": name, "title": title, "x": x, "y": y, "series": points})

    def save(self) -> dict[str, Any]:
        """Write the result as JSON; returns it too."""
        self.content["tables"] = [vars(table) for table in self.tables]
        write_json(self.path, self.content)
        return self.content


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def table_head(columns: list[str]) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]


def table_row(cells: list) -> str:
    return "| " + " | ".join(map(cell_text, cells)) + " |"


def cell_text(cell: Any) -> str:
    """A number with three digits; a spread as its median and, in brackets, its least and most."""
    if isinstance(cell, list):
        return f"{_digits(cell[0])} ({_digits(cell[1])} to {_digits(cell[2])})"
    if isinstance(cell, float):
        return _digits(cell)
    return "" if cell is None else f"{cell:,}" if isinstance(cell, int) else cell


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
