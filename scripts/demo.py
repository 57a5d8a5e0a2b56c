"""All stages on OpenMoji, from nothing to drawn prompts: what `make demo` runs.

    python scripts/demo.py --output outputs/demo

Each stage is one of the scripts beside this one; its command is printed first. Run again, it continues where it was.
"""

import runpy
import shlex
import sys
import time
from pathlib import Path

from vqlm.training.cli import run_script, script_parser
from vqlm.training.files import read_json
from vqlm.training.matrix_peak import describe_machine
from vqlm.training.progress import format_seconds

SCRIPTS = Path(__file__).parent
CONFIGS = SCRIPTS.parent / "configs"


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="Folder for all that is made.")
    parser.add_argument("--configs", type=Path, default=CONFIGS / "demo", help="Folder of vq.yaml and lm.yaml.")
    settings = parser.parse_args(arguments)
    output = settings.output
    if (output / "report.json").exists():
        print(f"All is done: {output / 'report.md'}. Remove {output} to start again.", flush=True)
        return
    start = time.monotonic()
    machine = describe_machine()
    print(
        f"{machine['processor']}, {machine['threads']} threads, {machine['device']}: matrix peak "
        f"{machine['bf16_gflops']} GFLOPS in bf16, {machine['fp32_gflops']} in fp32",
        flush=True,
    )
    vq, data, model = output / "image_tokenizer", output / "data", output / "model"
    _run(
        "1/4", "train_vq.py", "--config", settings.configs / "vq.yaml", "--data", "openmoji", "--output", vq, "--resume"
    )
    _run("2/4", "prepare_data.py", "--data", "openmoji", "--image-tokenizer", vq, "--output", data, "--resume")
    _run("3/4", "train_lm.py", "--config", settings.configs / "lm.yaml", "--data", data, "--output", model, "--resume")
    _run("4/4", "evaluate.py", "--model", model, "--data", data, "--output", output)
    seconds = sum(filter(None, read_json(output / "report.json")["seconds"].values()))
    print(
        f"All stages took {format_seconds(time.monotonic() - start)} now ({format_seconds(seconds)} by the report).\n"
        f"Look at {output / 'samples.png'} and {output / 'report.md'}, then draw your own:\n"
        f'  {sys.executable} scripts/generate.py --model {model} --prompt "red heart" --output picture.png',
        flush=True,
    )


def _run(stage: str, script: str, *arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    print(f"\n[{stage}] python {shlex.join([str(SCRIPTS / script), *words])}", flush=True)
    # In this process: a new one would load the libraries again for every stage.
    runpy.run_path(str(SCRIPTS / script))["main"](words)


if __name__ == "__main__":
    run_script(main)
