"""Does everything work on this GPU, and how near the card's peak? One JSON in under eight minutes, without a network.

    python benchmarks/gpu.py                     # pictures and prepared set are generated
    python benchmarks/gpu.py --data outputs/demo/data --minutes 8
    python benchmarks/gpu.py --tiny              # on a CPU, for the logic of this program only

It has never been run on a GPU: it was written and tested on a CPU, in its tiny form.

Runs the tests of `make test-cuda`, preparing, the demo's stage two in bf16 and in fp16, FSDP2 on one process beside the
same training without it, training steps at 110M and 340M parameters in both precisions as shares of the matrix peak,
and drawing against `generate` with a dynamic and a static cache. Each part is a process of its own with a share of the
minutes; one that fails or takes too long is in the JSON with its reason and what it had measured, and the next begins.

Carrying the packages: benchmarks/README.md. The parts themselves: gpu_parts.py.
"""

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from measure import current_commit

from vqlm.training.folders.whole_files import write_json

PARTS_FILE = Path(__file__).with_name("gpu_parts.py")
# Of the whole time, for this program itself and the ends of the parts.
SPARE = 0.03


class Part(NamedTuple):
    """share: of the whole time, which no earlier part can take; what those leave is added. needs: a part without which
    this one cannot run."""

    share: float
    needs: str | None = None


# In this order: what tells most comes first.
PARTS = {
    "machine": Part(0.04),
    "tests": Part(0.27),
    "training_110M": Part(0.10),
    "training_340M": Part(0.11),
    "prepare": Part(0.07),
    "stage_two_bf16": Part(0.09, "prepare"),
    "stage_two_fp16": Part(0.09, "prepare"),
    "fsdp2": Part(0.10, "prepare"),
    "drawing": Part(0.10),
}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="prepared set for stage two, as `make demo` leaves in outputs/demo")
    parser.add_argument("--minutes", type=float, default=8.0, help="the whole ends within them")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, in sizes that measure nothing")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"), help="folder for gpu.json and what is said")
    options = parser.parse_args(arguments)
    report: dict[str, Any] = {
        "question": (__doc__ or "").splitlines()[0],
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "commit": current_commit(),
        "tiny": options.tiny,
        "minutes": options.minutes,
        "parts": {},
    }
    options.output.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        names = [name for name in PARTS if name in options.parts]
        for number, name in enumerate(names):
            later = sum(PARTS[other].share for other in names[number + 1 :])
            limit = (1 - SPARE - later) * options.minutes * 60 - (time.monotonic() - start)
            report["parts"][name] = outcome_of(name, limit, report["parts"], options, Path(place))
            print(f"{name}: {summary_of(report['parts'][name])}", file=sys.stderr, flush=True)
            report["seconds"] = round(time.monotonic() - start, 1)
            report["all_passed"] = all(part["passed"] for part in report["parts"].values())
            write_json(options.output / "gpu.json", report)  # after each part: whatever ends this program, they stay
    print(json.dumps(report), flush=True)
    return report


def outcome_of(
    name: str, limit: float, earlier: dict[str, dict], options: argparse.Namespace, place: Path
) -> dict[str, Any]:
    """Whether the part passed, the reason if not, its seconds and its figures."""
    needed = PARTS[name].needs
    if needed in earlier and not earlier[needed]["passed"]:
        return {"passed": False, "reason": f"needs {needed}, which failed", "seconds": 0.0}
    figures, said = place / f"{name}.json", options.output / f"{name}.txt"
    words = [sys.executable, str(PARTS_FILE), name, "--figures", str(figures), "--place", str(place)]
    words += ["--data", str(options.data.absolute())] if options.data else []
    words += ["--tiny"] if options.tiny else []
    start = time.monotonic()
    reason = failure_of(words, limit, said)
    outcome = {"passed": reason is None, "seconds": round(time.monotonic() - start, 1), "limit": round(limit, 1)}
    if reason is not None:
        outcome["reason"] = reason
    return outcome | (json.loads(figures.read_text()) if figures.exists() else {})


def failure_of(words: list[str], limit: float, said: Path) -> str | None:
    """Run a command for `limit` seconds at most, what it says in the file `said`. Returns why it failed, or None."""
    with said.open("wb") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it has started too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status is None:
        return f"took longer than {limit:.0f} s"
    if status == 0:
        return None
    lines = said.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return f"exit status {status}: {' | '.join(lines[-3:])[-600:]}"


def summary_of(outcome: dict[str, Any]) -> str:
    return f"{'passed' if outcome['passed'] else outcome['reason']}, {outcome['seconds']} s"


if __name__ == "__main__":
    main()
