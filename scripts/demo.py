"""All stages on OpenMoji, from nothing to drawn prompts: what `make demo` runs.

vqlm demo --output outputs/demo

The command of each stage is printed first. Run again, it continues where it was.
"""

import shlex
import time
from pathlib import Path

from vqlm.scripts.commands import command_prefix, run_command
from vqlm.scripts.options import run_script, script_parser
from vqlm.training.files import read_json
from vqlm.training.progress import format_seconds

CONFIGS = Path(__file__).parents[1] / "configs"  # beside the scripts in a checkout and in an installation


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="Folder for models and report.")
    parser.add_argument("--configs", type=Path, default=CONFIGS / "demo", help="Folder of vq.yaml and lm.yaml.")
    settings = parser.parse_args(arguments)
    output = settings.output
    if (output / "report.json").exists():
        print(f"All is done: {output / 'report.md'}. Remove {output} to start again.", flush=True)
        return
    from vqlm.training.matrix_peak import describe_machine

    start = time.monotonic()
    machine = describe_machine()
    print(
        f"{machine['processor']}, {machine['threads']} threads, {machine['device']}: matrix peak "
        f"{machine['bf16_gflops']} GFLOPS in bf16, {machine['fp32_gflops']} in fp32",
        flush=True,
    )
    vq, data, model = output / "image_tokenizer", output / "data", output / "model"
    configs = settings.configs
    _run("1/4", "train-vq", "--config", configs / "vq.yaml", "--data", "openmoji", "--output", vq, "--resume")
    _run("2/4", "prepare", "--data", "openmoji", "--image-tokenizer", vq, "--output", data, "--resume")
    _run("3/4", "train-lm", "--config", configs / "lm.yaml", "--data", data, "--output", model, "--resume")
    _run("4/4", "evaluate", "--model", model, "--data", data, "--output", output)
    seconds = sum(filter(None, read_json(output / "report.json")["seconds"].values()))
    draw = [*command_prefix(), "generate", "--model", model, "--prompt", "red heart", "--output", "picture.png"]
    print(
        f"All stages took {format_seconds(time.monotonic() - start)} now ({format_seconds(seconds)} by the report).\n"
        f"Look at {output / 'samples.png'} and {output / 'report.md'}, then draw your own:\n"
        f"  {shlex.join(map(str, draw))}",
        flush=True,
    )


def _run(stage: str, name: str, *arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    print(f"\n[{stage}] {shlex.join([*command_prefix(), name, *words])}", flush=True)
    run_command(name, words)  # in this process: a new one would load the libraries again for every stage


if __name__ == "__main__":
    run_script(main)
