"""All stages on OpenMoji with fixed settings, from nothing to drawn prompts: what `make demo` runs.

vqlm demo --output outputs/demo

It is `vqlm train openmoji` with the settings of configs/demo instead of a plan. Run again, it continues.
"""

from pathlib import Path

from vqlm.scripts import train
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script

CONFIGS = Path(__file__).parents[1] / "configs"  # beside the scripts in a checkout and in an installation


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="Folder for models and report.")
    parser.add_argument(
        "--configs", type=Path, default=CONFIGS / "demo", help="Folder of train_vq.yaml and train_lm.yaml."
    )
    settings = parser.parse_args(arguments)
    if not (settings.output / "report.json").exists():
        from vqlm.training.machine.matrix_peak import describe_machine

        machine = describe_machine()
        print(
            f"{machine['processor']}, {machine['threads']} threads, {machine['device']}: matrix peak "
            f"{machine['bf16_gflops']} GFLOPS in bf16, {machine['fp32_gflops']} in fp32",
            flush=True,
        )
    words = ["openmoji", "--plan", settings.configs, "--output", settings.output, "--ignore-findings"]
    train.main([str(word) for word in words])


if __name__ == "__main__":
    run_script(main)
