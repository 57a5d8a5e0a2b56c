"""How fast does stage one train, and how good is it after the same time, against dalle-pytorch's DiscreteVAE?

    python benchmarks/vq_training.py --minutes 2

Pictures of 64x64, 64 codes out of 1,024, about the same number of parameters, batches of 32, bf16 autocast. Speed:
steps in turns, the peer also in channels-last. Quality: each trains alone for the same time on OpenMoji, from pictures
in memory; PSNR of held-out pictures reconstructed from their codes. The peer has AdamW at 1e-3, the learning rate of
its training script, which falls to zero, and the temperature of that script. Ours runs with Muon, the default, and with
the same AdamW; its speed also with encoder and decoder built by torch.compile.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from generated import coloured_blocks
from measure import Report, Spread, choose, in_turns, parser, ratio
from our_steps import CODEBOOK_SIZE, TokenizerStep, repeated, update
from peer_dalle import PACKAGE, build_vae, load, trainable
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vqlm.data_prep import load_collection, load_pictures
from vqlm.training.folders.whole_files import read_json
from vqlm.training.machine.allocator import keep_freed_memory
from vqlm.training.machine.compiling import compile_failure
from vqlm.vq import NetworkConfig, VQVAEConfig, to_pixel_values
from vqlm.vq.metrics import psnr
from vqlm.vq.settings import VQTrainingConfig
from vqlm.vq.train import Pictures, train_vq

SIDE, BATCH = 64, 32
OURS, PLAIN, COMPILED = "here", "here, AdamW", "here, compiled"
PEER, PEER_LAST = "DiscreteVAE", "DiscreteVAE, channels-last"
OPTIMIZERS: dict[str, dict] = {OURS: {}, PLAIN: {"optimizer": "adamw", "learning_rate": 1e-3}}
TEMPERATURES, COOLING = (1.0, 0.5), 1e-6  # of its train_vae.py: first, last, and the rate a step


class Settings(NamedTuple):
    """steps: per round. width: of the peer. generated: number of generated pictures instead of OpenMoji."""

    steps: int = 20
    rounds: int = 7
    minutes: float = 2.0
    network: NetworkConfig = NetworkConfig()
    width: int = 104
    generated: int | None = None


QUICK = Settings(steps=5, rounds=3, minutes=0.1)
TINY = Settings(1, 1, 0.0001, NetworkConfig(stem_channels=8, hidden_channels=16, num_residual_layers=1), 8, 64)


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, help="time to train each for its quality; 0 leaves quality out")
    options = options.parse_args(arguments)
    settings = choose(options, Settings(), QUICK, TINY)
    minutes = settings.minutes if options.minutes is None else options.minutes
    keep_freed_memory()
    report = Report("vq_training", __doc__, options, [PACKAGE])
    train, held_out = pictures(settings)
    package = load()
    tasks, sizes = {}, {}
    for name, optimizer in OPTIMIZERS.items():
        step = TokenizerStep(train, VQVAEConfig(network=settings.network), **optimizer)
        tasks[name], sizes[name] = several(step, settings.steps), trainable(step.model)
    if failure := compile_failure(torch.device("cpu")):
        report.remark(f"The compiled steps are left out: {failure}.")
    else:
        step = TokenizerStep(train, VQVAEConfig(network=settings.network))
        step.model.encoder.compile(dynamic=False)
        step.model.decoder.compile(dynamic=False)
        tasks[COMPILED], sizes[COMPILED] = several(step, settings.steps), trainable(step.model)
    if isinstance(package, str):
        report.remark(f"DiscreteVAE is left out: {package}.")
    else:
        for name in (PEER, PEER_LAST):
            peer = PeerStep(build_vae(package, SIDE, CODEBOOK_SIZE, width=settings.width), train, name == PEER_LAST)
            tasks[name], sizes[name] = several(peer, settings.steps), trainable(peer.model)
    timings = in_turns(tasks, settings.rounds)
    table = report.table(
        "Training steps of stage one", ["", "parameters", "step, s", "pictures/s", "here / it", "here, AdamW / it"]
    )
    rates = {name: [BATCH / seconds for seconds in values] for name, values in timings.items()}
    for name, values in timings.items():
        ours_to_it = [ratio(rates[optimizer], rates[name]) for optimizer in OPTIMIZERS]
        table.row(name, sizes[name], Spread.of(values), Spread.of(rates[name]), *ours_to_it)

    if minutes:
        table = report.table(f"After {minutes:g} minutes each", ["", "steps", "PSNR held out, dB"])
        for name, optimizer in OPTIMIZERS.items():
            table.row(name, *our_quality(train, held_out, settings, minutes, optimizer))
        if not isinstance(package, str):
            faster = min((PEER, PEER_LAST), key=lambda name: Spread.of(timings[name]).median)
            vae = build_vae(package, SIDE, CODEBOOK_SIZE, width=settings.width)
            table.row(faster, *peer_quality(PeerStep(vae, train, faster == PEER_LAST), held_out, minutes))
    return report.save()


def pictures(settings: Settings) -> tuple[Tensor, Tensor]:
    """Training pictures and held-out pictures, (N, 3, 64, 64) uint8."""
    if settings.generated:
        pictures = torch.from_numpy(coloured_blocks(settings.generated, SIDE)).permute(0, 3, 1, 2).contiguous()
        return pictures, pictures[:8]
    loaded = load_pictures(load_collection("openmoji", SIDE), (SIDE, SIDE))
    return loaded.train, loaded.held_out


def several(step: Callable[[], None], count: int) -> Callable[[], float]:
    """Mean seconds per step over `count` steps."""

    def run() -> float:
        start = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - start) / count

    return run


class PeerStep:
    """A training step of the peer's DiscreteVAE."""

    def __init__(self, model: nn.Module, train: Tensor, is_channels_last: bool):
        self.format = torch.channels_last if is_channels_last else torch.contiguous_format
        self.model = model.train().to(memory_format=self.format)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
        loader = DataLoader(Pictures(train), BATCH, shuffle=True, drop_last=True, collate_fn=lambda batch: batch)
        self.batches, self.steps = repeated(loader), 0

    def __call__(self) -> None:
        first, last = TEMPERATURES
        batch = (next(self.batches).float() / 255).contiguous(memory_format=self.format)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.model(batch, return_loss=True, temp=max(last, first * (1 - COOLING) ** self.steps))
        update(loss, self.model, [self.optimizer], 1.0)
        self.steps += 1


def our_quality(
    train: Tensor, held_out: Tensor, settings: Settings, minutes: float, optimizer: dict
) -> tuple[int, float]:
    config = VQTrainingConfig(max_minutes=minutes, eval_every=10**9, batch_size=BATCH, **optimizer)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "vq"
        train_vq(train, held_out, output, VQVAEConfig(network=settings.network), config)
        summary = read_json(output / "run" / "summary.json")
    return summary["steps"], summary["held_out_psnr_db"]


def peer_quality(step: PeerStep, held_out: Tensor, minutes: float) -> tuple[int, float]:
    start, budget = time.perf_counter(), 60 * minutes
    while (spent := time.perf_counter() - start) < budget:
        step.optimizer.param_groups[0]["lr"] = 1e-3 * (1 - spent / budget)
        step()
    values = []
    with torch.no_grad():
        for part in held_out.split(64):
            reconstruction = step.model.eval().decode(step.model.get_codebook_indices(part.float() / 255))  # in [-1, 1]
            values.append(psnr(reconstruction, to_pixel_values(part)))
    return step.steps, torch.cat(values).mean().item()


if __name__ == "__main__":
    main()
