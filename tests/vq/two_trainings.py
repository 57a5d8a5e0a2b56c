"""Run by test_processes.py: a few steps of every quantizer on several processes, and on one with the joined batch."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.multiprocessing as mp

from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig
from vqlm.vq.quantizers.settings import CONFIGS
from vqlm.vq.settings import LossConfig, VQTrainingConfig
from vqlm.vq.train import train_vq

JOINED_BATCH, STEPS = 16, 3
SMALL = {"codebook_size": 16, "codebook_dim": 4}
QUANTIZERS = {
    "vq": VQConfig(**SMALL),
    "gradient": VQConfig(**SMALL, codebook_training="gradient"),
    "simvq": VQConfig(**SMALL, codebook_training="simvq"),
    "fsq": CONFIGS["fsq"](levels=[4, 4]),
    "lfq": CONFIGS["lfq"](codebook_size=16),
    "residual": CONFIGS["residual"](**SMALL),
    "grouped": CONFIGS["grouped"](**SMALL),
    "hierarchical": CONFIGS["hierarchical"](**SMALL, level_channels=8, level_residual_layers=1),
}
ADVERSARIES = {"plain": LossConfig(), "adversary": LossConfig(adversarial_weight=0.5, adversarial_start=1)}
NETWORK = NetworkConfig(input_shape=[8, 8], strides=[2, 2], stem_channels=8, hidden_channels=8, num_residual_layers=1)


def train_all(folder: Path, processes: int, rank: int, accumulation: int = 1) -> dict[str, torch.Tensor]:
    """The weights of each, in one vector, as this process holds them after the training."""
    torch.set_num_threads(1)
    pictures = torch.randint(0, 256, (48, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weights = {}
    for name, quantizer in QUANTIZERS.items():
        for terms, loss in ADVERSARIES.items():
            config = VQTrainingConfig(
                max_steps=STEPS, batch_size=JOINED_BATCH // processes // accumulation, optimizer="adamw",
                learning_rate=1e-3, warmup_ratio=0.0, mixed_precision="no", log_every=1, loss=loss,
                gradient_accumulation_steps=accumulation,
            )  # fmt: skip
            output = folder / f"{name}-{terms}"
            model = train_vq(pictures, pictures[:4], output, VQVAEConfig(network=NETWORK, quantizer=quantizer), config)
            weights[output.name] = torch.cat(
                [value.detach().flatten().double() for value in model.state_dict().values()]
            )
    return weights


def losses_of(output: Path) -> list[float]:
    """The reconstruction loss of every step."""
    lines = map(json.loads, (output / "run" / "log.jsonl").read_text().splitlines())
    return [line["reconstruction_loss"] for line in lines if "reconstruction_loss" in line]


def _work(rank: int, folder: str, processes: int) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[3],
    }  # fmt: skip
    torch.save(train_all(Path(folder) / "several", processes, rank), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    assert VQVAE  # loaded before the processes part
    processes = int(sys.argv[2])
    mp.start_processes(_work, (sys.argv[1], processes), processes, start_method="fork")
