"""What a config would cost: parameters, codes, FLOPs, memory by part, and time on this machine. Trains nothing.

vqlm plan --config configs/demo/train_vq.yaml
vqlm plan --config configs/demo/train_lm.yaml --data runs/data

It takes any option of `vqlm train-vq` or `vqlm train-lm`, whichever the config is for. Stage two is planned on the
prepared set in --data; without one on made-up captions. `vqlm train` plans all stages for some minutes instead.
"""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from vqlm.lm.settings import LMTrainingConfig
from vqlm.scripts import train_lm, train_vq
from vqlm.scripts.config_file import require_settings_file
from vqlm.scripts.options import ScriptParser
from vqlm.scripts.run_script import run_script
from vqlm.scripts.settings_options import values_of
from vqlm.training.errors import UserError, require_range
from vqlm.training.watching.progress import format_seconds
from vqlm.vq.settings import VQTrainingConfig

VQ_ONLY = {"network", "quantizer"} | {field.name for field in fields(VQTrainingConfig)}
LM_ONLY = {"model", "sampling", "sequences"} | {field.name for field in fields(LMTrainingConfig)}
NOWHERE = "nowhere"


def main(arguments: list[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    stage = _stage(words)
    parser = train_vq.settings_parser(words) if stage == "vq" else train_lm.settings_parser()
    _add_options(parser)
    settings = parser.parse_args(["--data", NOWHERE, "--output", NOWHERE, *words])
    require_range(settings, "[1, inf)", "codes_per_picture", "codebook_size")
    require_range(settings, "[0, inf)", "pictures")
    print("\n".join(_vq_lines(settings) if stage == "vq" else _lm_lines(settings)), flush=True)


def _add_options(parser: ScriptParser) -> None:
    parser.description = __doc__
    parser.add_argument("--stage", help="vq or lm, where the config does not tell.")
    parser.add_argument("--pictures", type=int, default=0, help="Stage one: pictures that stay in memory.")
    parser.add_argument("--codes_per_picture", type=int, default=64, help="Stage two without --data.")
    parser.add_argument("--codebook_size", type=int, default=1024, help="Stage two without --data.")


def _stage(words: list[str]) -> str:
    """Which stage `words` are for: said, or told by a setting or the name of the config."""
    if (said := _value_of("--stage", words)) is not None:
        if said not in ("vq", "lm"):
            raise UserError(f"--stage must be vq or lm, found {said!r}.")
        return said
    path = _value_of("--config", words)
    names = {word[2:].partition("=")[0].partition(".")[0].replace("-", "_") for word in words if word.startswith("--")}
    if path is not None:
        require_settings_file(Path(path))
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        names |= set(content) if isinstance(content, dict) else set()
    is_vq, is_lm = bool(names & (VQ_ONLY - LM_ONLY)), bool(names & (LM_ONLY - VQ_ONLY))
    if is_vq == is_lm and path is not None:
        is_vq, is_lm = "vq" in Path(path).stem, "lm" in Path(path).stem
    if is_vq == is_lm:
        if {"-h", "--help"} & set(words):
            return "vq"
        raise UserError("These settings fit both stages; give --stage vq or --stage lm.")
    return "vq" if is_vq else "lm"


def _value_of(option: str, words: list[str]) -> str | None:
    for number, word in enumerate(words):
        if word.startswith(option + "="):
            return word.partition("=")[2]
        if word == option and number + 1 < len(words):
            return words[number + 1]
    return None


def _vq_lines(settings: Any) -> list[str]:
    from vqlm.vq import VQVAEConfig
    from vqlm.vq.cost import cost_of_vq

    config = values_of(VQTrainingConfig, settings)
    model_config = VQVAEConfig(network=settings.network, quantizer=settings.quantizer)
    cost = cost_of_vq(model_config, config, settings.pictures)
    shape = "x".join(map(str, model_config.code_shape))
    return _lines("stage one", cost, config, f"{shape}, out of {model_config.codebook_size:,}")


def _lm_lines(settings: Any) -> list[str]:
    from vqlm.data_prep import PreparedSet
    from vqlm.lm.train.cost import RowsToTrain, cost_of_lm

    config = values_of(LMTrainingConfig, settings)
    if str(settings.data) == NOWHERE:
        rows = RowsToTrain.made_up(settings.codes_per_picture, settings.codebook_size)
    else:
        rows = RowsToTrain.of(PreparedSet.load(settings.data, verify=False))
    cost = cost_of_lm(settings.model, config, settings.sequences, rows)
    return _lines("stage two", cost, config, f"out of {rows.vocabulary.image.size:,}")


def _lines(title: str, cost: Any, config: Any, codes: str) -> list[str]:
    from vqlm.training.machine.cost import LIBRARIES

    parameters = ", ".join(f"{name} {count:,}" for name, count in cost.parameters.items())
    parts = ", ".join(f"{name} {_megabytes(size)}" for name, size in cost.memory.items())
    of_what = "of the process" if LIBRARIES in cost.memory else "of the training, beside the libraries"
    precision = {"no": "fp32"}.get(cost.precision, cost.precision)
    lines = [
        f"{title}, {cost.rows * config.gradient_accumulation_steps} rows per step",
        f"parameters  {sum(cost.parameters.values()):,}: {parameters}",
        f"codes       {cost.codes_per_picture} per picture ({codes})",
        f"FLOPs       {cost.flops / 1e9:,.1f} billion per step",
        f"memory      {_megabytes(sum(cost.memory.values()))} at the peak {of_what}: {parts}",
        f"time        {cost.seconds:.3g} s per step, measured here; {cost.peak_seconds:.3g} s at the matrix peak of "
        f"{cost.peak_gflops:,.0f} GFLOPS in {precision}",
    ]
    if config.max_steps is not None:
        lines.append(f"            {config.max_steps:,} steps: {format_seconds(cost.seconds * config.max_steps)}")
    return lines + cost.remarks


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MB" if size < 2**30 else f"{size / 2**30:,.2f} GB"


if __name__ == "__main__":
    run_script(main)
