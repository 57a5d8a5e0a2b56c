"""Do both stages and preparing, killed at random moments, end with what undisturbed runs end with?

    python benchmarks/chaos.py                 # 100 kills over three stages, on one and on two processes; `make chaos`
    python benchmarks/chaos.py --kills 12      # a first look

A round starts one command with --resume, kills it (SIGKILL) at a random moment, starts it again, and so on until it
ends by itself. Half of the kills are aimed at a moment when something is being written. After each kill the files that
have their final name must be whole; after each round the weights, every line of the log but for its times, or all rows
of the prepared set must be those of an undisturbed run, bit for bit. Rounds follow until the kills are spent.

A command runs in a fork of this program, which has imported all that it needs: a start takes a second instead of ten.
Two processes meet as torchrun makes them meet; the second is killed up to 50 ms after the first, in either order. Their
workers are not killed: as after a lack of memory, they notice by themselves.
"""

import argparse
import contextlib
import datetime
import importlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a fork has none of the threads of its parent

import psutil
import torch
from generated import write_webdataset

import vqlm.lm.train.loop  # what the commands import when they run, for all forks
import vqlm.planning.reached
import vqlm.vq.train  # noqa: F401
from vqlm.scripts.commands import COMMANDS, run_command
from vqlm.scripts.run_script import run_script
from vqlm.training.errors import UserError
from vqlm.training.folders.checkpoint import find_damage
from vqlm.training.folders.folder_kinds import FolderKind, is_kind
from vqlm.training.folders.weight_files import weight_files
from vqlm.training.folders.whole_files import checksum_of, read_json
from vqlm.training.machine.matrix_peak import describe_machine

SMALL = {
    "train-vq": ["--network.input_shape", "[16,16]", "--network.strides", "[2,2]", "--network.stem_channels", "8",
                 "--network.hidden_channels", "16", "--quantizer.codebook_size", "16", "--quantizer.codebook_dim", "4"],
    "prepare": ["--num-workers", "0"],
    "train-lm": ["--model.hidden_size", "32", "--model.intermediate_size", "64", "--model.num_hidden_layers", "2",
                 "--model.num_attention_heads", "2", "--compile", "no"],
}  # fmt: skip
# So often that some kills fall into a checkpoint, and few enough that most fall between two.
TRAINING = ["--checkpoint-minutes", "0.004", "--batch-size", "8", "--log-every", "1"]
PICTURES, PICTURES_A_TAR = 320, 8
TIMES = ("seconds", "rows_per_second")  # in a line of the log
KINDS: dict[str, FolderKind] = {"train-vq": "image tokenizer", "train-lm": "finished model"}
SLOWEST = 1200.0  # seconds that a start may take on a busy machine; a longer one hangs
FORK = multiprocessing.get_context("fork")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of all stages and numbers of processes together")
    parser.add_argument("--steps", type=int, default=60, help="of each training")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes to try")
    parser.add_argument("--stages", nargs="+", choices=SMALL, default=list(SMALL))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, known in ((name, known) for group in COMMANDS.values() for name, known in group.items()):
        if name in SMALL:
            importlib.import_module(f"vqlm.scripts.{known.module}")
    print(datetime.date.today(), json.dumps(describe_machine(0.01)), flush=True)
    draw, tries = random.Random(arguments.seed), list(itertools.product(arguments.processes, arguments.stages))
    with tempfile.TemporaryDirectory() as place:
        write_webdataset(Path(place) / "pictures", PICTURES, 16, PICTURES_A_TAR)
        for number, (processes, stage) in enumerate(tries):
            folder = Path(place) / f"on-{processes}"
            for before in SMALL:  # a stage reads what an undisturbed one before it left
                undisturbed(folder, before, arguments.steps, processes)
                if before == stage:
                    break
            share = (arguments.kills * (number + 1)) // len(tries) - (arguments.kills * number) // len(tries)
            chaos(folder, stage, arguments.steps, processes, share, draw)
    print(f"{arguments.kills} kills, all continued; every result is that of an undisturbed run", flush=True)


def undisturbed(folder: Path, stage: str, steps: int, processes: int) -> float:
    """Run a stage once, without a kill. Returns the processor seconds of its first process, also if it has run already.

    Kills are timed by these, since on a busy machine each start takes another time.
    """
    kept = folder / f"undisturbed-{stage}.seconds"
    if not kept.exists():
        kept.write_text(str(finish(command(folder, stage, "undisturbed", steps), processes, folder / "said")))
    return float(kept.read_text())


def chaos(folder: Path, stage: str, steps: int, processes: int, kills: int, draw: random.Random) -> None:
    """Kill a stage `kills` times, over as many rounds as that takes. Exits where anything differs or is damaged."""
    seconds, words = undisturbed(folder, stage, steps, processes), command(folder, stage, "killed", steps)
    output, expected = folder / "killed" / stage, result_of(folder / "undisturbed" / stage)
    killed, rounds, writing, start = 0, 0, 0, time.monotonic()
    while killed < kills:
        shutil.rmtree(output, ignore_errors=True)
        with keep_for_a_look(folder):
            while killed < kills and run_and_kill(words, processes, folder / "said", output, seconds, draw):
                killed, writing = killed + 1, writing + bool(unfinished(output))
                require_whole(output, words)
            finish(words, processes, folder / "said")
            require_same(expected, result_of(output), words)
        rounds += 1
    print(
        f"{stage} on {processes}: {killed} kills, {writing} of them while something was written, {rounds} rounds, "
        f"{time.monotonic() - start:.0f} s (undisturbed {seconds:.1f} s of a processor): all identical",
        flush=True,
    )


@contextlib.contextmanager
def keep_for_a_look(folder: Path) -> Iterator[None]:
    """Where a round ends the program, its files stay."""
    try:
        yield
    except SystemExit:
        kept = Path(tempfile.mkdtemp(prefix="chaos-")) / "files"
        shutil.copytree(folder, kept)
        print(f"the files of this round: {kept}", file=sys.stderr)
        raise


def command(folder: Path, stage: str, name: str, steps: int) -> list[str]:
    """Arguments of `vqlm`. `prepare` and `train-lm` read what the undisturbed stage before them left."""
    before = folder / "undisturbed"
    data = before / "prepare" if stage == "train-lm" else folder.parent / "pictures"
    words = [stage, *SMALL[stage], "--resume", "true", "--output", str(folder / name / stage), "--data", str(data)]
    if stage == "prepare":
        return [*words, "--image-tokenizer", str(before / "train-vq")]
    return [*words, "--max-steps", str(steps), *TRAINING]


# Starting and killing


def started(words: list[str], processes: int, said: Path) -> list[BaseProcess]:
    """The command in forks of this program, as many as `processes`, which write what they say to `said`."""
    said.parent.mkdir(parents=True, exist_ok=True)
    said.write_bytes(b"")
    with socket.socket() as meeting:
        meeting.bind(("127.0.0.1", 0))
        port = str(meeting.getsockname()[1])
    forks = []
    for rank in range(processes):
        environment = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_PORT": port,
            "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
        }  # fmt: skip
        forks.append(FORK.Process(target=_work, args=(words, environment if processes > 1 else {}, said)))
        forks[-1].start()
    return forks


def _work(words: list[str], environment: dict[str, str], said: Path) -> None:
    os.environ |= environment
    with said.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    run_script(lambda arguments: run_command(words[0], arguments or []), words[1:])


def processor_seconds(fork: BaseProcess) -> float:
    """What a process has computed so far; 0 for one that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return sum(psutil.Process(fork.pid).cpu_times()[:2])
    return 0.0


def finish(words: list[str], processes: int, said: Path) -> float:
    """Run the command to its end. Returns the processor seconds of its first process.

    Exits with what it said, should it fail or hang.
    """
    forks, spent = started(words, processes, said), 0.0

    def has_ended() -> bool:
        nonlocal spent
        spent = max(spent, processor_seconds(forks[0]))
        return not any(fork.is_alive() for fork in forks)

    if not wait(has_ended, SLOWEST):
        kill(forks, lambda: 0.0)
        sys.exit(f"hangs: vqlm {' '.join(words)}\n{said.read_text()[-3000:]}")
    require_success(forks, words, said)
    return spent


def run_and_kill(
    words: list[str], processes: int, said: Path, output: Path, seconds: float, draw: random.Random
) -> bool:
    """Start the command and kill it. Whether it was killed, and did not end before."""
    is_aimed, delay = draw.random() < 0.5, draw.uniform(0, seconds)
    forks = started(words, processes, said)
    before = {path: path.stat().st_mtime_ns for path in unfinished(output)}

    def has_ended() -> bool:
        return not all(fork.is_alive() for fork in forks)

    def writes() -> bool:
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            return any(path.stat().st_mtime_ns != before.get(path) for path in unfinished(output))
        return False

    first = forks[0]
    wait(lambda: has_ended() or processor_seconds(first) >= delay, SLOWEST)
    if is_aimed:
        wait(lambda: has_ended() or writes(), SLOWEST)
        time.sleep(draw.uniform(0, 0.01))
    if has_ended():
        wait(lambda: not any(fork.is_alive() for fork in forks), SLOWEST)
        require_success(forks, words, said)
        return False
    draw.shuffle(forks)
    kill(forks, lambda: draw.uniform(0, 0.05))
    return True


def kill(forks: list[BaseProcess], pause: Callable[[], float]) -> None:
    for fork in forks:
        fork.kill()
        time.sleep(pause() if fork is not forks[-1] else 0)
    for fork in forks:
        fork.join()


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until `condition` holds, `seconds` at most. Whether it holds."""
    end = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.001)
    return holds


# What must hold


def require_success(forks: list[BaseProcess], words: list[str], said: Path) -> None:
    if any(fork.exitcode for fork in forks):
        statuses = [fork.exitcode for fork in forks]
        sys.exit(f"failed with {statuses}: vqlm {' '.join(words)}\n{said.read_text()[-3000:]}")


def unfinished(output: Path) -> list[Path]:
    """What has a temporary name, at any depth but below such a folder."""
    return [*output.glob("*.tmp"), *output.glob("run/*.tmp"), *output.glob("shards/*.tmp")]


def require_whole(output: Path, words: list[str]) -> None:
    """Exits where a file that has its final name is damaged."""
    damages = []
    for name in ("checkpoint", "checkpoint.old"):
        if (folder := output / "run" / name).exists() and (damage := find_damage(folder)) is not None:
            damages.append(f"{folder}: {damage}")
    for path in output.rglob("*.json"):
        if not any(part.endswith(".tmp") for part in path.parts):
            try:
                json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                damages.append(f"{path}: {error}")
    kind = KINDS.get(words[0]) if words else None
    if kind is not None and is_kind(output, kind):
        try:
            weight_files(output)
        except UserError as error:
            damages.append(str(error))
    for described in output.glob("shards/??????/shard.json"):
        for split, expected in read_json(described)["sha256"].items():
            if checksum_of(described.with_name(f"{split}.arrow")) != expected:
                damages.append(f"{described.parent}: {split}.arrow has changed")
    if damages:
        sys.exit(f"damaged after a kill: vqlm {' '.join(words)}\n" + "\n".join(damages))


def result_of(output: Path) -> dict[str, Any]:
    """What must not differ, by name: of a training weights and log, of a prepared set all rows and the vocabulary."""
    if (output / "manifest.json").exists():
        manifest = read_json(output / "manifest.json")
        parts = {str(path.relative_to(output)): checksum_of(path) for path in output.glob("vocabulary/*")}
        shards = {shard["folder"]: shard for shard in manifest["shards"]}
        return shards | parts | {"splits": manifest["splits"], "skipped": (output / "skipped.jsonl").read_text()}
    weights = {path.name: checksum_of(path) for path in output.glob("*.safetensors")}
    lines = [json.loads(line) for line in (output / "run" / "log.jsonl").read_text().splitlines()]
    repeated = [step for step, count in Counter(line["step"] for line in lines if "loss" in line).items() if count > 1]
    log = {
        f"log line {number}": {name: value for name, value in line.items() if name not in TIMES}
        for number, line in enumerate(lines)
    }
    return (
        weights | log | {"steps logged twice": repeated, "steps": read_json(output / "run" / "summary.json")["steps"]}
    )


def require_same(expected: dict[str, Any], found: dict[str, Any], words: list[str]) -> None:
    different = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if different:
        lines = [f"{name}: {expected.get(name)} undisturbed, {found.get(name)} killed" for name in different[:5]]
        sys.exit(f"{len(different)} results DIFFER: vqlm {' '.join(words)}\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
