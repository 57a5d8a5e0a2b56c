"""How near is the memory that `vqlm plan` predicts to what a training takes? It should be within 15%.

    python benchmarks/plan_memory.py

Every shipped config is planned in one new process and trained for a few steps by its own stage in another, without
torch.compile. Measured is the peak of that process, with libraries, pictures and the checkpoint at its end; the last
column leaves out what the plan says of the libraries, in which a step differs least.
"""

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from generated import write_webdataset
from measure import Report, choose, in_child, parser, peak_megabytes

from vqlm.data_prep import PreparedSet, load_collection, prepare
from vqlm.lm.settings import LMTrainingConfig, SamplingConfig
from vqlm.lm.train.cost import RowsToTrain, cost_of_lm
from vqlm.lm.train.loop import train_lm
from vqlm.scripts import train_lm as lm_script, train_vq as vq_script
from vqlm.scripts.settings_options import values_of
from vqlm.training.machine.cost import LIBRARIES
from vqlm.training.stop_signals import Interrupted
from vqlm.vq import VQVAE, NetworkConfig, VQVAEConfig
from vqlm.vq.cost import cost_of_vq
from vqlm.vq.settings import VQTrainingConfig
from vqlm.vq.train import train_vq

CONFIGS = Path(__file__).parents[1] / "configs"
STAGE_ONE = ["demo/train_vq.yaml", "base/vq.yaml", "paper/vq.yaml", "smoke/train_vq.yaml"]
# With the side of the pictures whose codes it is trained on: 8 pixels per code.
STAGE_TWO = [("demo/train_lm.yaml", 64), ("base/lm.yaml", 64), ("smoke/train_lm.yaml", 32)]
PICTURES, STEPS = 256, 8
WITHIN = 0.15


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--child", nargs=4, metavar=("TASK", "CONFIG", "SIDE", "FOLDER"), help="used by the program")
    options = options.parse_args(arguments)
    if options.child:
        task, name, side, folder = options.child
        print(*TASKS[task](name, int(side), Path(folder)))
        return {}
    report = Report("plan_memory", __doc__, options)
    columns = [
        "config",
        "predicted, MB",
        "libraries, MB",
        "measured, MB",
        "predicted / it",
        "the same without libraries",
    ]
    table = report.table("Memory of the process at the peak of a training", columns)
    configs: list[tuple[str, int]] = [*((name, 0) for name in STAGE_ONE), *STAGE_TWO]
    smoke = [config for config in configs if config[0].startswith("smoke")]
    for name, side in choose(options, configs, configs, smoke):
        with tempfile.TemporaryDirectory() as folder:
            if side:
                in_child(__file__, "--child", "prepare", name, side, folder)
            predicted, libraries = in_child(__file__, "--child", "plan", name, side, folder)
            (measured,) = in_child(__file__, "--child", "train", name, side, folder)
        beside = (predicted - libraries) / (measured - libraries)
        table.row(f"configs/{name}", predicted, libraries, measured, predicted / measured, beside)
    worst = max(abs(row[4] - 1) for row in table.rows)
    report.remark(f"The prediction is off by {worst:.0%} at most; {WITHIN:.0%} are wanted.")
    return report.save()


# What a child does; side 0 is stage one


def prepare_in(name: str, side: int, folder: Path) -> tuple[float, ...]:
    prepare_pictures(side, folder)
    return (0.0,)


def plan(name: str, side: int, folder: Path) -> tuple[float, ...]:
    """Megabytes predicted, and those of the libraries among them."""
    if side:
        prepared = PreparedSet.load(folder / "data", verify=False)
        settings, config = lm_settings(name)
        cost = cost_of_lm(settings.model, config, settings.sequences, RowsToTrain.of(prepared))
    else:
        cost = cost_of_vq(*vq_settings(name), PICTURES)
    return sum(cost.memory.values()) / 2**20, cost.memory.get(LIBRARIES, 0) / 2**20


def train(name: str, side: int, folder: Path) -> tuple[float, ...]:
    """Megabytes of the process at its peak."""
    with contextlib.suppress(Interrupted):
        if side:
            settings, config = lm_settings(name)
            train_lm(
                PreparedSet.load(folder / "data"), folder / "model", settings.model, only_steps(config),
                settings.sequences, SamplingConfig(),
            )  # fmt: skip
        else:
            model_config, config = vq_settings(name)
            shape = (PICTURES, model_config.network.in_channels, *model_config.network.input_shape)
            pictures = torch.randint(0, 256, shape, dtype=torch.uint8)
            train_vq(pictures, pictures[:4], folder / "vq", model_config, only_steps(config))
    return (peak_megabytes(),)


TASKS = {"prepare": prepare_in, "plan": plan, "train": train}


def vq_settings(name: str) -> tuple[VQVAEConfig, VQTrainingConfig]:
    words = ["--config", str(CONFIGS / name), "--data", "none", "--output", "none"]
    settings = vq_script.settings_parser(words).parse_args(words)
    return VQVAEConfig(network=settings.network, quantizer=settings.quantizer), values_of(VQTrainingConfig, settings)


def lm_settings(name: str) -> tuple[Any, LMTrainingConfig]:
    words = ["--config", str(CONFIGS / name), "--data", "none", "--output", "none"]
    settings = lm_script.settings_parser().parse_args(words)
    return settings, replace(values_of(LMTrainingConfig, settings), compile="no")


def prepare_pictures(side: int, folder: Path) -> PreparedSet:
    """Generated pictures, encoded with an untrained image tokenizer of the default sizes."""
    write_webdataset(folder / "tars", PICTURES, side)
    network = NetworkConfig(input_shape=[side, side], stem_channels=8, hidden_channels=16, num_residual_layers=1)
    tokenizer = VQVAE(VQVAEConfig(network=network)).eval()
    collection = load_collection(str(folder / "tars"), side)
    return prepare(collection, tokenizer, folder / "data", "generated", num_workers=0)


def only_steps(config: Any) -> Any:
    """`config` for a few steps, without evaluation, samples or a checkpoint between them."""
    return replace(config, max_steps=1000, stop_after=STEPS, sample_every=0.0, eval_every=10**6, log_every=10**6)


if __name__ == "__main__":
    main()
