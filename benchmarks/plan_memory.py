"""How near is the memory that `vqlm plan` predicts to what a training takes? It should be within 15%.

    python benchmarks/plan_memory.py

Every shipped config is trained for a few steps by its own stage in a new process, without torch.compile. Measured is
the peak of the process within those steps, less what it holds after a tiny training, which has loaded the libraries.
"""

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from generated import write_webdataset
from measure import Report, choose, in_child, memory_megabytes, parser, peak_megabytes

from vqlm.data_prep import PreparedSet, load_collection, prepare
from vqlm.lm.settings import LanguageModelConfig, LMTrainingConfig, SamplingConfig
from vqlm.lm.train.cost import Rows, cost_of_lm
from vqlm.lm.train.loop import train_lm
from vqlm.scripts import train_lm as lm_script, train_vq as vq_script
from vqlm.scripts.settings_options import values_of
from vqlm.training.stop_signals import Interrupted
from vqlm.vq import VQVAE, NetworkConfig, VQVAEConfig
from vqlm.vq.cost import cost_of_vq
from vqlm.vq.settings import VQTrainingConfig
from vqlm.vq.train import train_vq

CONFIGS = Path(__file__).parents[1] / "configs"
STAGE_ONE = ["demo/train_vq.yaml", "base/vq.yaml", "paper/vq.yaml", "smoke/train_vq.yaml"]
# With the side of the pictures whose codes it is trained on: 8 pixels per code.
STAGE_TWO = [("demo/train_lm.yaml", 64), ("base/lm.yaml", 64), ("smoke/train_lm.yaml", 32)]
PICTURES, STEPS = 256, 4
WITHIN = 0.15


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--child", nargs=3, metavar=("CONFIG", "SIDE", "FOLDER"), help="used by the program itself")
    options = options.parse_args(arguments)
    if options.child:
        name, side, folder = options.child
        print(*(measure_vq(name, Path(folder)) if side == "0" else measure_lm(name, int(side), Path(folder))))
        return {}
    report = Report("plan_memory", __doc__, options)
    table = report.table(
        "Memory of a training step beside the libraries", ["config", "predicted, MB", "measured, MB", "predicted / it"]
    )
    configs: list[tuple[str, int]] = [*((name, 0) for name in STAGE_ONE), *STAGE_TWO]
    smoke = [config for config in configs if config[0].startswith("smoke")]
    for name, side in choose(options, configs, configs, smoke):
        with tempfile.TemporaryDirectory() as folder:
            predicted, measured = in_child(__file__, "--child", name, side, folder)
        table.row(f"configs/{name}", predicted, measured, predicted / measured)
    worst = max(abs(predicted / measured - 1) for _, predicted, measured, _ in table.rows)
    report.remark(f"The prediction is off by {worst:.0%} at most; {WITHIN:.0%} are wanted.")
    return report.save()


def measure_vq(name: str, folder: Path) -> tuple[float, float]:
    """Megabytes predicted and measured."""
    words = ["--config", str(CONFIGS / name), "--data", "none", "--output", "none"]
    settings = vq_script.settings_parser(words).parse_args(words)
    model_config = VQVAEConfig(network=settings.network, quantizer=settings.quantizer)
    config = values_of(VQTrainingConfig, settings)
    train_few_pictures(VQVAEConfig(network=small_network()), config, folder / "warm")
    before = memory_megabytes(reset_peak=True)
    train_few_pictures(model_config, config, folder / "vq")
    measured = peak_megabytes() - before
    cost = cost_of_vq(model_config, config, PICTURES)
    return sum(cost.memory.values()) / 2**20, measured


def train_few_pictures(model_config: VQVAEConfig, config: VQTrainingConfig, output: Path) -> None:
    shape = (PICTURES, model_config.network.in_channels, *model_config.network.input_shape)
    pictures = torch.randint(0, 256, shape, dtype=torch.uint8)
    with contextlib.suppress(Interrupted):
        train_vq(pictures, pictures[:4], output, model_config, only_steps(config))


def measure_lm(name: str, side: int, folder: Path) -> tuple[float, float]:
    """Megabytes predicted and measured, on pictures of `side` x `side`."""
    words = ["--config", str(CONFIGS / name), "--data", "none", "--output", "none"]
    settings = lm_script.settings_parser().parse_args(words)
    config = replace(values_of(LMTrainingConfig, settings), compile="no")
    small = LanguageModelConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    train_few_rows(small, config, prepare_pictures(32, folder / "warm"), folder / "warm-model", settings.sequences)
    prepared = prepare_pictures(side, folder / "prepared")
    before = memory_megabytes(reset_peak=True)
    train_few_rows(settings.model, config, prepared, folder / "model", settings.sequences)
    measured = peak_megabytes() - before
    cost = cost_of_lm(settings.model, config, settings.sequences, Rows.of(prepared))
    return sum(cost.memory.values()) / 2**20, measured


def train_few_rows(
    model_config: LanguageModelConfig, config: LMTrainingConfig, prepared: PreparedSet, output: Path, sequences: Any
) -> None:
    with contextlib.suppress(Interrupted):
        train_lm(prepared, output, model_config, only_steps(config), sequences, SamplingConfig())


def prepare_pictures(side: int, folder: Path) -> PreparedSet:
    """Generated pictures, encoded with an untrained image tokenizer of the default sizes."""
    write_webdataset(folder / "tars", PICTURES, side)
    tokenizer = VQVAE(VQVAEConfig(network=replace(small_network(), input_shape=[side, side], strides=[4, 2]))).eval()
    collection = load_collection(str(folder / "tars"), side)
    return prepare(collection, tokenizer, folder / "data", "generated", num_workers=0)


def small_network() -> NetworkConfig:
    return NetworkConfig(input_shape=[16, 16], stem_channels=8, hidden_channels=16, num_residual_layers=1)


def only_steps(config: Any) -> Any:
    """`config` for a few steps, without evaluation, samples or a checkpoint between them."""
    return replace(config, max_steps=1000, stop_after=STEPS, sample_every=0.0, eval_every=10**6, log_every=10**6)


if __name__ == "__main__":
    main()
