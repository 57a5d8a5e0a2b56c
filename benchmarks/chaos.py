"""Do both stages and preparing, killed at random moments, end with what undisturbed runs end with?

    python benchmarks/chaos.py                  # 100 kills in all, one process; `make chaos`
    python benchmarks/chaos.py --processes 2    # started by torchrun

Each command is started with --resume and killed (SIGKILL, with its children) at a random moment, again and again; the
last start may end. Then the weights, or the checksums of the shards, are compared with those of an undisturbed run.
"""

import argparse
import contextlib
import csv
import datetime
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from vqlm.training.files import read_json
from vqlm.training.matrix_peak import describe_machine

SMALL = {
    "train-vq": ["--network.input_shape", "[16,16]", "--network.strides", "[2,2]", "--network.stem_channels", "8",
                 "--network.hidden_channels", "16", "--quantizer.codebook_size", "16", "--quantizer.codebook_dim", "4"],
    "prepare": ["--num-workers", "0"],
    "train-lm": ["--model.hidden_size", "32", "--model.intermediate_size", "64", "--model.num_hidden_layers", "2",
                 "--model.num_attention_heads", "2", "--compile", "no"],
}  # fmt: skip
# So often that most kills fall between two checkpoints and some fall into one.
TRAINING = ["--checkpoint-minutes", "0.005", "--batch-size", "8", "--log-every", "5"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=34, help="of each of the three stages")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(datetime.date.today(), json.dumps(describe_machine()), flush=True)
    with tempfile.TemporaryDirectory() as place:
        same = chaos(Path(place), arguments.kills, arguments.steps, arguments.processes, random.Random(arguments.seed))
    sys.exit(0 if same else 1)


def chaos(
    folder: Path, kills: int, steps: int, processes: int, draw: random.Random, stages: tuple[str, ...] = tuple(SMALL)
) -> bool:
    """Kill each stage `kills` times. Whether all ended with what undisturbed runs ended with."""
    write_pictures(folder / "pictures", 48)
    same = True
    for stage in stages:
        start = time.monotonic()
        run(command(folder, stage, "undisturbed", steps, processes))
        seconds = time.monotonic() - start
        killed = command(folder, stage, "killed", steps, processes)
        continued = sum(kill_after(killed, draw.uniform(0, seconds)) for _ in range(kills))
        run(killed)
        results = [result_of(folder / name / stage) for name in ("undisturbed", "killed")]
        same &= results[0] == results[1]
        verdict = "identical" if results[0] == results[1] else "DIFFERENT"
        print(f"{stage}, {processes} processes: {continued} kills, undisturbed {seconds:.0f} s; {verdict}", flush=True)
    return same


def write_pictures(folder: Path, count: int) -> None:
    """Small pictures of noise, with captions."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file_name", "caption"])
        writer.writeheader()
        for number in range(count):
            noise = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((16, 16)).save(folder / f"{number}.png")
            writer.writerow({"file_name": f"{number}.png", "caption": f"noise {number % 7}"})


def command(folder: Path, stage: str, name: str, steps: int, processes: int) -> list[str]:
    """One stage; `prepare` and `train-lm` read what the undisturbed stage before them left."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    words = [sys.executable, *(launch if processes > 1 else []), "-m", "vqlm", stage, *SMALL[stage], "--resume"]
    words += ["--output", str(folder / name / stage)]
    before = folder / "undisturbed"
    if stage == "train-lm":
        words += ["--data", str(before / "prepare")]
    else:
        words += ["--data", str(folder / "pictures")]
    if stage == "prepare":
        return [*words, "--image-tokenizer", str(before / "train-vq")]
    return [*words, "--max-steps", str(steps), *TRAINING]


def run(words: list[str]) -> None:
    """Exits with what the command said, should it fail."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stderr[-3000:]}")


def kill_after(words: list[str], seconds: float) -> bool:
    """Whether the command was killed, and did not end before. Exits with what it said, should it fail by itself."""
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        started = psutil.Process(process.pid)
        for one in (started, *started.children(recursive=True)):  # torchrun gives each a session of its own
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate()
        return True
    if process.returncode:
        sys.exit(f"{' '.join(words)}\n{said.decode()[-3000:]}")
    return False


def result_of(output: Path) -> object:
    """What must not differ: the weights, and of a prepared set all rows."""
    if (output / "manifest.json").exists():
        manifest = read_json(output / "manifest.json")
        return manifest["shards"], manifest["splits"]
    return hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
