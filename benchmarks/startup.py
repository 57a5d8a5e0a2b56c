"""How long until `vqlm --help` answers, and until a picture is drawn from a cold start?

    python benchmarks/startup.py --model outputs/demo/model

Each program runs in a process of its own, in turns with the others. Help stands against the import of the parser's
libraries, a drawn picture against loading the same folder with stock transformers.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Report, Spread, choose, parser, ratio

STOCK = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (kind.from_pretrained(sys.argv[1]) for kind in (AutoModelForCausalLM, AutoTokenizer))
"""
PARSER, LOADING = "import jsonargparse, yaml", "stock: load model and tokenizer"


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="folder that train_lm.py finished; without it nothing is drawn")
    options = options.parse_args(arguments)
    rounds = choose(options, 7, 3, 1)
    vqlm = ["-m", "vqlm"]
    programs = {
        PARSER: ["-c", PARSER],
        "import vqlm": ["-c", "import vqlm"],
        "vqlm --help": [*vqlm, "--help"],
        "vqlm train-vq --help": [*vqlm, "train-vq", "--help"],
        "vqlm train-lm --help": [*vqlm, "train-lm", "--help"],
    }
    with tempfile.TemporaryDirectory() as folder:
        if options.model is not None:
            drawing = ["--model", options.model, "--prompt", "red heart", "--seed", 1, "--output", f"{folder}/one.png",
                       "--overwrite"]  # fmt: skip
            programs[LOADING] = ["-c", STOCK, str(options.model)]
            programs["vqlm generate, one picture"] = [*vqlm, "generate", *map(str, drawing)]
        report = Report("startup", __doc__, options)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for number in range(1 + rounds):  # the first round fills the page cache
            for name, program in programs.items():
                taken = seconds_of(program)
                if number:
                    seconds[name].append(taken)
    table = report.table(
        "From a cold start", ["program", "processor time, s", "wall time, s", "processor time / its base"]
    )
    for name, taken in seconds.items():
        processor, wall = ([pair[index] for pair in taken] for index in (0, 1))
        base = [pair[0] for pair in seconds[LOADING if name.startswith(("stock", "vqlm generate")) else PARSER]]
        table.row(name, Spread.of(processor), Spread.of(wall), ratio(processor, base))
    return report.save()


def seconds_of(program: list[str]) -> tuple[float, float]:
    """Processor time and wall time of a Python program in a new process."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *program], check=True, capture_output=True)
    wall, after = time.perf_counter() - start, os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return used, wall


if __name__ == "__main__":
    main()
