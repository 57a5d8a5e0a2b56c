"""Does any damaged input end a run, hang, crash, write elsewhere, or lose a row without a reason?

    python benchmarks/hostile.py                      5,000 inputs, minutes
    python benchmarks/hostile.py --inputs 500 --kinds csv tar

hypothesis mutates inputs of every kind. Each kind runs in a process of its own, which is started again after a crash
and ended after `--seconds` for one input. An answer is a result, or a UserError, which a person sees as one sentence.
What else happens is an escape; its input is kept in `OUTPUT/escapes`. The exit status is 1 if there are any.
"""

import argparse
import contextlib
import datetime
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a fork has none of the threads of its parent

from hostile_drawings import DrawingElements
from hostile_inputs import KINDS as OF_BYTES, Outcome
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st

from vqlm.training.errors import UserError
from vqlm.training.machine.matrix_peak import describe_machine

NASTY = (
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xc2\x85", b"\x0c", b'"', b"'", b"\n", b"\r\n", b"..", b"/",
    b"../../", b"\\", b"{", b"}", b"[", b"]", b"[" * 3000, b",", b";", b"\t", b":", b"-1", b"99999999999999999999",
    b"NaN", b"1e999", b"null", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"%s", b"${x}", b"<", b">",
    b"&#0;", b"url(/dev/zero)", b"!!python/object/apply:os.system [x]", b"A" * 5000, "é".encode("latin-1"),
    "♥".encode(),
)  # fmt: skip
# "svg" is damaged as bytes, which is seldom XML afterwards.
KINDS = OF_BYTES | {"svg-elements": DrawingElements}
MOST_REASONS = 6
WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree"}

Edit = tuple[float, str, bytes, int]


@dataclass
class Result:
    """Of one kind."""

    inputs: int = 0
    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    escapes: Counter[str] = field(default_factory=Counter)

    def as_row(self, name: str) -> str:
        reasons = "; ".join(f"{count} {reason[:60]}" for reason, count in self.lost.most_common(MOST_REASONS)) or "none"
        escapes = "; ".join(f"{count} {reason[:90]}" for reason, count in self.escapes.items()) or "0"
        return f"| {name} | {self.inputs} | {self.read} | {self.refused.total()} | {reasons} | {escapes} |"


def mutated(content: bytes, edits: list[Edit]) -> bytes:
    """`content` after edits at shares of its length."""
    for place, action, piece, count in edits:
        at = int(place * len(content))
        if action == "replace":
            content = content[:at] + piece + content[at + len(piece) :]
        elif action == "insert":
            content = content[:at] + piece + content[at:]
        elif action == "delete":
            content = content[:at] + content[at + count :]
        elif action == "double":
            content = content[: at + count] + content[at:]
        else:  # cut
            content = content[:at]
    return content


def edits() -> st.SearchStrategy[list[Edit]]:
    """Few edits, near the beginning, where headers are, as often as anywhere."""
    place = st.one_of(st.floats(0, 1), st.floats(0, 0.05))
    action = st.sampled_from(["replace", "replace", "insert", "delete", "double", "cut"])
    piece = st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from(NASTY))
    return st.lists(st.tuples(place, action, piece, st.integers(1, 600)), min_size=1, max_size=4)


def work(kind: str, count: int, number: int, folder: Path, connection: Any) -> None:
    """Try `count` inputs of a kind and send what came of each; what is tried stands in `folder/last`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # warnings of libraries
    outside: list[str] = []
    subject = KINDS[kind](folder)
    _watch(folder, outside)
    bases = subject.bases()
    change = getattr(subject, "mutated", mutated)

    @seed(number)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, len(bases) - 1), edits())
    def try_one(base: int, changes: list[Edit]) -> None:
        content = change(bases[base], changes)
        (folder / "last").write_bytes(content)
        connection.send(("begin", None))
        outside.clear()
        connection.send(("end", _answer(lambda: subject.answer(base, content), outside)))

    try_one()
    connection.send(("all", None))


def _answer(try_it: Callable[[], Outcome], outside: list[str]) -> dict[str, Any]:
    outcome, refused, escape = Outcome(), None, None
    try:
        outcome = try_it()
    except UserError as error:
        refused = " ".join(str(error).split())
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "site-packages" not in frame.filename and frame.filename != __file__]
        frame = (ours or frames)[-1]
        escape = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
    if outside:
        escape = f"touched {outside[0]}"
    if escape is None and refused is None and outcome.missing > 0:
        escape = "a row is lost without a reason"
    return {"read": outcome.read, "lost": outcome.lost, "refused": refused, "escape": escape}


def _watch(folder: Path, outside: list[str]) -> None:
    """Notes what is written outside `folder`, programs that are started, and connections."""
    allowed = (str(folder), os.devnull, "/dev/shm")

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            path = os.path.abspath(os.fspath(arguments[0])) if isinstance(arguments[0], str | bytes | Path) else ""
            path = path.decode() if isinstance(path, bytes) else path
            if path and not path.startswith(allowed):
                outside.append(path)
        elif event in WRITES and isinstance(arguments[0], str | Path):
            if not os.path.abspath(arguments[0]).startswith(allowed):
                outside.append(f"{event} {arguments[0]}")
        elif event == "subprocess.Popen" and "render_process.py" in str(arguments):
            return
        elif event in ("os.system", "socket.connect", "subprocess.Popen"):
            outside.append(f"{event} {arguments!r:.60}")

    sys.addaudithook(hook)


def try_kind(kind: str, count: int, number: int, place: Path, keep: Path, patience: float) -> Result:
    """Try `count` inputs of a kind; processes that crash or hang are counted and replaced."""
    result = Result()
    context = multiprocessing.get_context("fork")
    while result.inputs < count:
        folder = place / f"{kind}-{result.inputs}"
        folder.mkdir(parents=True)
        ours, theirs = context.Pipe()
        left = count - result.inputs
        process = context.Process(target=work, args=(kind, left, number + result.inputs, folder, theirs))
        process.start()
        theirs.close()
        before = result.inputs
        escape = _follow(result, ours, patience, folder, keep / kind)
        process.kill()
        process.join()
        shutil.rmtree(folder, ignore_errors=True)
        if escape is None:
            if result.inputs == before:  # hypothesis has no further inputs
                break
            continue
        result.inputs += 1
        result.escapes[escape] += 1
    return result


def _follow(result: Result, connection: Any, patience: float, folder: Path, keep: Path) -> str | None:
    """Count what a process sends. Returns the escape with which it ended; None when it is done."""
    is_started = False
    while True:
        if not connection.poll(patience if is_started else 120):
            _keep(folder, keep)
            return f"hang of more than {patience:g} s"
        try:
            message, answer = connection.recv()
        except EOFError:
            _keep(folder, keep)
            return "crash of the process"
        if message == "all":
            return None
        is_started = True
        if message == "end":
            result.inputs += 1
            result.read += answer["read"]
            result.lost.update(answer["lost"])
            if answer["refused"]:
                result.refused[answer["refused"][:200]] += 1
            if answer["escape"]:
                result.escapes[answer["escape"]] += 1
                _keep(folder, keep)


def _keep(folder: Path, keep: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    if (folder / "last").exists():
        shutil.copyfile(folder / "last", keep / f"{len(list(keep.iterdir())):04}")


def hostile(kinds: list[str], inputs: int, number: int, output: Path, patience: float = 30.0) -> dict[str, Result]:
    """Results by kind of `inputs` inputs in all."""
    results = {}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for kind in kinds:
            start = time.monotonic()
            count = -(-inputs // len(kinds))
            results[kind] = try_kind(kind, count, number, Path(place), output / "escapes", patience)
            print(f"{results[kind].as_row(kind)}  {time.monotonic() - start:.0f} s", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000, help="of all kinds together")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30.0, help="the longest time for one input")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    arguments = parser.parse_args()
    output = arguments.output.absolute()
    print(datetime.date.today(), json.dumps(describe_machine()), " ".join(sys.argv), flush=True)
    print("| kind | inputs | rows read | refused whole | rows lost, by reason | escapes |\n|---|---|---|---|---|---|")
    results = hostile(arguments.kinds, arguments.inputs, arguments.seed, output, arguments.seconds)
    output.mkdir(parents=True, exist_ok=True)
    report = {"date": str(datetime.date.today()), "seed": arguments.seed}
    report |= {"kinds": {kind: vars(result) for kind, result in results.items()}}
    (output / "hostile.json").write_text(json.dumps(report, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
    escapes = sum(result.escapes.total() for result in results.values())
    inputs = sum(result.inputs for result in results.values())
    print(f"{inputs} inputs, {escapes} escapes; {output / 'hostile.json'}", flush=True)
    sys.exit(1 if escapes else 0)


if __name__ == "__main__":
    main()
