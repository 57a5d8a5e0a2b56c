"""The parts of gpu.py, which starts this program once for each; after every figure the JSON of the part is written.

python benchmarks/gpu_parts.py drawing --tiny --figures /tmp/drawing.json --place /tmp/place
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vqlm.training.folders.whole_files import read_json, write_json
from vqlm.training.machine.device import best_device, fastest_precision, is_bf16_fast, is_fp16_fast
from vqlm.training.machine.matrix_peak import describe_machine, matrix_peak

ROOT = Path(__file__).parents[1]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
# Differences in held-out nats per code that two trainings of the same rows in bf16 may have.
FSDP_TOLERANCE = 0.05


class Figures:
    """The figures of a part, by name; each is on the disk as soon as it is known."""

    def __init__(self, path: Path):
        self.path = path
        self.values: dict[str, Any] = {}

    def add(self, **values: Any) -> None:
        self.values |= values
        write_json(self.path, self.values)


class Place:
    """Where a part computes and finds what others left. tiny: on the CPU, in sizes that measure nothing."""

    def __init__(self, folder: Path, data: Path | None, tiny: bool):
        self.folder, self.tiny = folder, tiny
        self.prepared = data or folder / "data"
        self.is_given = data is not None
        self.device = torch.device("cpu") if tiny else best_device()
        self.seconds = 0.05 if tiny else 1.0

    def run(self, *words: str, **environment: str) -> None:
        """A command of vqlm. Raises where it fails; what it says is in the file of the part."""
        if self.tiny:
            environment["ACCELERATE_USE_CPU"] = "true"
        subprocess.run([sys.executable, *words], check=True, cwd=ROOT, env=os.environ | environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    place = Place(arguments.place, arguments.data, arguments.tiny)
    if place.device.type != "cuda" and not place.tiny:
        sys.exit("torch finds no GPU of CUDA here; --tiny runs on the CPU")
    PARTS[arguments.part](place, Figures(arguments.figures))


def machine(place: Place, figures: Figures) -> None:
    """The card, the versions, and the peaks of matrix products."""
    figures.add(**describe_machine(place.seconds))
    figures.add(fp16_gflops=round(matrix_peak(torch.float16, place.device, place.seconds)))
    figures.add(cuda=torch.version.cuda, auto_precision=fastest_precision(place.device))
    if place.device.type == "cuda":
        figures.add(
            capability=torch.cuda.get_device_capability(place.device),
            memory_gb=torch.cuda.get_device_properties(place.device).total_memory / 1e9,
        )


def tests(place: Place, figures: Figures) -> None:
    """What `make test-cuda` runs. Files without such a test are not read: they may need packages not carried."""
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.cuda" in path.read_text()]
    results = place.folder / "tests.xml"
    words = [
        "-m",
        "pytest",
        "-m",
        "cuda",
        "-v",
        "--durations",
        "10",
        "--junitxml",
        str(results),
        *(files[:1] if place.tiny else files),
    ]
    status = subprocess.run([sys.executable, *words], cwd=ROOT).returncode
    cases = list(xml.etree.ElementTree.parse(results).iter("testcase"))
    kinds = {kind: [case for case in cases if case.find(kind) is not None] for kind in ("failure", "error", "skipped")}
    failed = kinds["failure"] + kinds["error"]
    figures.add(
        tests_passed=len(cases) - len(failed) - len(kinds["skipped"]), tests_skipped=len(kinds["skipped"]),
        tests_failed=[f"{case.get('classname')}.{case.get('name')}" for case in failed],
    )  # fmt: skip
    if status or (not place.tiny and kinds["skipped"]):
        sys.exit(f"{len(failed)} tests of the GPU failed, {len(kinds['skipped'])} were skipped")


# Training steps


def training(name: str, place: Place, figures: Figures) -> None:
    """Steps of stage two at one size, in each precision that the card has, compiled."""
    from our_steps import LanguageStep, Rows

    from vqlm.lm.settings import LanguageModelConfig

    sizes = {
        "110M": LanguageModelConfig(
            hidden_size=768, intermediate_size=2048, num_hidden_layers=15, num_attention_heads=12
        ),
        "340M": LanguageModelConfig(
            hidden_size=1024, intermediate_size=2816, num_hidden_layers=26, num_attention_heads=16
        ),
        "tiny": LanguageModelConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2),
    }
    rows = Rows(16 if place.tiny else 256, most=40 if place.tiny else None)
    is_fast = {"bf16": is_bf16_fast(place.device), "fp16": is_fp16_fast(place.device)}
    for precision in ("bf16", "fp16"):
        if not is_fast[precision] and not place.tiny:
            figures.add(**{precision: "not in the hardware of this card"})
            continue
        step = LanguageStep(
            rows, sizes["tiny" if place.tiny else name], compile=not place.tiny, attention="sdpa",
            batch_size=8 if place.tiny else 64, device=place.device, precision=precision,
        )  # fmt: skip
        seconds, tokens = timed_steps(step, place)
        peak = matrix_peak(DTYPES[precision], place.device, place.seconds)
        rate = sum(tokens) / sum(seconds)
        measured: dict[str, Any] = {
            "parameters": step.parameters, "steps": len(seconds), "step_seconds": statistics.median(seconds),
            "tokens_per_second": rate, "peak_gflops": peak, "share_of_peak": 6 * step.parameters * rate / peak / 1e9,
            "loss": step.last_loss, "skipped_steps": step.skipped,
        }  # fmt: skip
        if place.device.type == "cuda":
            measured["memory_gb"] = torch.cuda.max_memory_allocated(place.device) / 1e9
            torch.cuda.reset_peak_memory_stats(place.device)
        figures.add(**{precision: measured})
        if not torch.isfinite(torch.tensor(step.last_loss)):
            sys.exit(f"the loss in {precision} is {step.last_loss}")
        del step


def timed_steps(step: Any, place: Place, warm_up: int = 3) -> tuple[list[float], list[int]]:
    """Seconds and tokens of each step, for some seconds, after those that compile."""
    seconds, tokens = [], []
    for _ in range(1 if place.tiny else warm_up):
        step()
    end = time.perf_counter() + 5 * place.seconds
    while not seconds or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        if place.device.type == "cuda":
            torch.cuda.synchronize(place.device)
        seconds.append(time.perf_counter() - start)
        tokens.append(step.tokens)
    return seconds, tokens


# The commands


def prepare(place: Place, figures: Figures) -> None:
    """A prepared set of generated pictures and an untrained image tokenizer, where none is given."""
    from generated import write_image_tokenizer, write_webdataset

    if place.is_given:
        figures.add(data=str(place.prepared))
        return
    pictures = 60 if place.tiny else 4000
    side = 16 if place.tiny else 64
    write_webdataset(place.folder / "pictures", pictures, side)
    write_image_tokenizer(place.folder / "vq", side)
    start = time.perf_counter()
    place.run(
        "-m", "vqlm", "prepare", "--data", str(place.folder / "pictures"),
        "--image-tokenizer", str(place.folder / "vq"), "--output", str(place.prepared), "--num-workers", "0",
    )  # fmt: skip
    figures.add(data="generated", pictures=pictures, prepare_seconds=time.perf_counter() - start)


def stage_two(precision: str, place: Place, figures: Figures) -> None:
    """The demo's stage two for some of its steps, stopped in the middle and continued, then a picture."""
    output = place.folder / f"model-{precision}"
    steps = 4 if place.tiny else 200
    # The CPU has no fp16.
    words = train_lm_words(place, output, steps, "no" if place.tiny else precision) + ["--resume", "true"]
    place.run("-m", "vqlm", *words, "--stop-after", str(steps // 2))
    place.run("-m", "vqlm", *words)
    figures.add(**training_figures(output))
    start = time.perf_counter()
    place.run("-m", "vqlm", "generate", "--model", str(output), "--prompt", "red heart", "--device", place.device.type,
              "--output", str(output / "drawn.png"))  # fmt: skip
    figures.add(generate_seconds=time.perf_counter() - start)


def fsdp2(place: Place, figures: Figures) -> None:
    """The same steps under FSDP2 on one process, by torchrun, and without it: the same held-out figure."""
    steps, precision = (4, "no") if place.tiny else (60, fastest_precision(place.device))
    if precision == "fp16":
        precision = "no"  # which FSDP2 does not do
    nats = {}
    for name in ("plain", "sharded"):
        output = place.folder / f"model-{name}"
        words = train_lm_words(place, output, steps, precision)
        if name == "plain":
            place.run("-m", "vqlm", *words)
        else:
            launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", "-m", "vqlm"]
            place.run(*launch, *words, ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
        figures.add(**{name: training_figures(output)})
        nats[name] = figures.values[name]["held_out_image_nll"]
    if abs(nats["plain"] - nats["sharded"]) > FSDP_TOLERANCE:
        sys.exit(f"held-out nats per code: {nats}, more apart than {FSDP_TOLERANCE}")


def train_lm_words(place: Place, output: Path, steps: int, precision: str) -> list[str]:
    words = ["train-lm", "--config", str(ROOT / "configs" / ("smoke" if place.tiny else "demo") / "train_lm.yaml")]
    words += ["--data", str(place.prepared), "--output", str(output), "--max-steps", str(steps)]
    # Compiled steps are tried by the tests and timed by `training`; here compiling would take all the time.
    return [*words, "--mixed-precision", precision, "--sample-every", "0", "--compile", "no"]


def training_figures(output: Path) -> dict[str, Any]:
    """Of a finished training: steps, seconds, rows per second, held-out nats per code, skipped steps."""
    summary = read_json(output / "run" / "summary.json")
    lines = (output / "run" / "log.jsonl").read_text().splitlines()
    rates = [line["rows_per_second"] for line in map(json.loads, lines) if "rows_per_second" in line]
    return {
        "steps": summary["steps"], "train_seconds": summary["seconds"],
        "rows_per_second": statistics.median(rates) if rates else None,
        "held_out_image_nll": summary["held_out_image_nll"], "skipped_steps": summary.get("skipped_steps", 0),
    }  # fmt: skip


# Drawing


def drawing(place: Place, figures: Figures) -> None:
    """Seconds of ours and of `generate` with both caches, untrained models in bf16, guided and not.

    The static cache comes last, for all cases: `generate` compiles it, which takes long.
    """
    from drawing import BF16, OURS, TINY, Case, drawer
    from our_steps import Rows

    full = [Case("5M", 16, 64, 3.0, 3), Case("85M", 16, 256, 1.0, 2)]
    cases = [(case, Rows(case.codes, most=100)) for case in (TINY if place.tiny else full)]
    engines: dict[str, Callable[[Case, Rows], Any]] = {
        "here": lambda case, rows: drawer(case, rows, OURS, place.device),
        "generate, dynamic cache": lambda case, rows: drawer(case, rows, BF16, place.device),
        "generate, static cache": lambda case, rows: static(drawer(case, rows, BF16, place.device)),
    }
    measured: dict[str, dict[str, Any]] = {case.title: {} for case, _ in cases}
    for name, build in engines.items():
        for case, rows in cases:
            try:
                seconds = seconds_of(build(case, rows), case.rounds, place)
                measured[case.title][name] = {"seconds": seconds, "pictures_per_second": case.pictures / seconds}
            except Exception as error:  # of any engine: the others are measured all the same
                measured[case.title][name] = {"failed": f"{type(error).__name__}: {str(error).strip()[:300]}"}
            figures.add(**measured)
    if any("failed" in case["here"] for case in measured.values()):
        sys.exit("drawing failed here, see the figures")


def static(draw: Any) -> Any:
    """A call of `generate` with a cache of fixed size, which it compiles on a GPU."""
    draw.keywords["generation_config"].cache_implementation = "static"
    return draw


def seconds_of(draw: Callable[[], Any], rounds: int, place: Place) -> float:
    """The median of some rounds, after one that compiles."""
    seconds = []
    for number in range(1 + rounds):
        start = time.perf_counter()
        draw()
        if place.device.type == "cuda":
            torch.cuda.synchronize(place.device)
        if number:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


PARTS: dict[str, Callable[[Place, Figures], None]] = {
    "machine": machine,
    "tests": tests,
    "training_110M": lambda place, figures: training("110M", place, figures),
    "training_340M": lambda place, figures: training("340M", place, figures),
    "prepare": prepare,
    "stage_two_bf16": lambda place, figures: stage_two("bf16", place, figures),
    "stage_two_fp16": lambda place, figures: stage_two("fp16", place, figures),
    "fsdp2": fsdp2,
    "drawing": drawing,
}


if __name__ == "__main__":
    main()
