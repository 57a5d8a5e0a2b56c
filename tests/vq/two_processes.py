"""Run by test_processes.py: two processes start and train one codebook, each on its half of every batch."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from vqlm.training.distributed import gather_rows, sum_over_processes
from vqlm.vq.quantizers import VectorQuantizer
from vqlm.vq.quantizers.settings import VQConfig

PROCESSES = 2
BATCH, DIM, POSITIONS, STEPS = 8, 4, 5, 4
# Codes die at once when a step does not use them, so that some are revived in every run.
SETTINGS = {"codebook_size": 32, "codebook_dim": DIM, "ema_decay": 0.5, "dead_code_threshold": 0.6}


def train(rank: int, processes: int) -> dict:
    """A codebook after a few updates on whole numbers, whose sums are exact in any order."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(VQConfig(**SETTINGS))
    whole = torch.randint(-9, 10, (STEPS, BATCH, DIM, POSITIONS)).float()
    batches = whole.chunk(processes, dim=1)[rank]
    quantizer.initialize(whole[0])
    revived = [quantizer.update(z_e, quantizer.encode(z_e)) for z_e in batches]
    return {"state": quantizer.state_dict(), "revived": revived}


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    rows = torch.tensor([[rank, 0], [rank, 1]])
    results = {"gathered": gather_rows(rows), "sum": sum_over_processes(rows.clone())} | train(rank, PROCESSES)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(_work, (sys.argv[1],), PROCESSES, start_method="fork")
