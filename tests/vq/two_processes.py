"""Run by test_processes.py: several processes start and train one codebook, each on its share of every batch."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vqlm.training.machine.distributed import gather_rows, sum_over_processes
from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig, to_pixel_values
from vqlm.vq.quantizers import VectorQuantizer
from vqlm.vq.train import evaluate_reconstruction

BATCH, DIM, POSITIONS, STEPS = 8, 4, 5, 4
NUMBERS_OF_PICTURES = (1, 7, 130)
# Codes die at once when a step does not use them, so that some are revived in every run.
SETTINGS = {
    "codebook_size": 32,
    "codebook_dim": DIM,
    "ema_decay": 0.5,
    "dead_code_threshold": 0.6,
    "normalize_z_e": False,
}


def train(rank: int, processes: int) -> dict:
    """A codebook after a few updates on whole numbers, whose sums are exact in any order."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(VQConfig(**SETTINGS))
    whole = torch.randint(-9, 10, (STEPS, BATCH, DIM, POSITIONS)).float()
    batches = whole.chunk(processes, dim=1)[rank]
    quantizer.initialize(whole[0])
    revived = [quantizer.update(z_e, quantizer.encode(z_e)) for z_e in batches]
    return {"state": quantizer.state_dict(), "revived": revived}


def evaluate(num_pictures: int) -> tuple[dict[str, float], int]:
    """Held-out figures of an untrained model, and how many pictures this process computed for them."""
    torch.manual_seed(0)
    network = NetworkConfig(input_shape=[8, 8], strides=[2, 2], stem_channels=8, hidden_channels=8)
    model = VQVAE(VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=16, codebook_dim=DIM)))
    pictures = torch.randint(256, (num_pictures, 3, 8, 8), dtype=torch.uint8)
    model.quantizer.initialize(model.encode_continuous(to_pixel_values(pictures)))
    computed = []
    model.encoder.register_forward_hook(lambda _, given, __: computed.append(len(given[0])))
    return evaluate_reconstruction(model, pictures), sum(computed)


def _work(rank: int, folder: str, processes: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    rows = torch.tensor([[rank, 0], [rank, 1]])
    results = {"gathered": gather_rows(rows), "sum": sum_over_processes(rows.clone())} | train(rank, processes)
    results["evaluated"] = {number: evaluate(number) for number in NUMBERS_OF_PICTURES}
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    processes = int(sys.argv[2])
    mp.start_processes(_work, (sys.argv[1], processes), processes, start_method="fork")
