"""Run by test_sharded.py: the same training on two processes by DDP and by FSDP2, stopped, and continued on one."""

import os
import shutil
import sys
from pathlib import Path

import torch
import torch.multiprocessing as mp
from accelerate.state import AcceleratorState, GradientState

from vqlm.data_prep import PreparedSet, SequenceConfig
from vqlm.lm import LanguageModelConfig, SamplingConfig, TextToImagePipeline
from vqlm.lm.evaluate.metrics import evaluate_nll
from vqlm.lm.loss import WeightedCrossEntropy
from vqlm.lm.settings import LMTrainingConfig
from vqlm.lm.train.loop import train_lm
from vqlm.training.run import Run
from vqlm.training.stop_signals import Interrupted

STEPS, STOP = 12, 6
NUMBERS_OF_ROWS = (1, 5)
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SETTINGS = {
    "max_steps": STEPS, "batch_size": 4, "compile": "no", "mixed_precision": "no", "log_every": 1, "eval_every": 4,
    "embedding_dropout": 0.0,
}  # fmt: skip
VARIANTS = {
    "accumulated": {"batch_size": 2, "gradient_accumulation_steps": 2},
    "checkpointed": {"gradient_checkpointing": True},
    "bf16": {"mixed_precision": "bf16"},
    "adamw": {"optimizer": "adamw"},
}
# Without noise, which another number of processes would draw in another way.
CLEAN = SequenceConfig(caption_dropout=0.0, word_dropout=0.0, code_noise=0.0)


def train(data: Path, output: Path, is_sharded: bool, stop: int | None = None, resume: bool = False, **settings):
    """One training of this process and its fellows; `stop` as if SIGTERM came while that step was computed."""
    AcceleratorState._reset_state(reset_partial_state=False)
    GradientState._reset_state()
    os.environ |= {"ACCELERATE_USE_FSDP": str(is_sharded).lower(), "FSDP_VERSION": "2"}
    advance = Run._advance

    def stopping(run):
        if run.state.step + 1 == stop:
            run._stop_signals.received = 15
        advance(run)

    Run._advance = stopping
    try:
        config = LMTrainingConfig(**(SETTINGS | settings))
        sizes = LanguageModelConfig(**({} if config.init_from else SIZES))
        train_lm(PreparedSet.load(data), output, sizes, config, CLEAN, SamplingConfig(), resume)
    except Interrupted:
        assert stop is not None
    finally:
        Run._advance = advance


def evaluate(folder: Path, data: Path) -> dict[int, tuple[float, int]]:
    """The held-out figure of the first rows, for several numbers of them, and how many rows this process computed."""
    model, prepared = TextToImagePipeline.from_pretrained(folder / "ddp", "cpu").model, PreparedSet.load(data)
    objective = WeightedCrossEntropy(model, prepared.vocabulary, text_weight=0.0, image_weight=1.0)
    computed: list[int] = []
    objective.register_forward_pre_hook(lambda _, __, batch: computed.append(len(batch["input_ids"])), with_kwargs=True)
    figures = {}
    for number in NUMBERS_OF_ROWS:
        computed.clear()
        nll = evaluate_nll(objective, prepared.vocabulary, prepared.train.select(range(number)), 8, 16)
        figures[number] = nll, sum(computed)
    return figures


def _work(rank: int, folder: Path, processes: int, port: str) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    torch.set_num_threads(1)
    data = folder / "data"
    if processes == 1:
        train(data, folder / "half_on_one", True, resume=True, max_steps=STOP)
        train(data, folder / "on_one", True, resume=True)
    else:
        train(data, folder / "ddp", False)
        train(data, folder / "whole", True)
        train(data, folder / "parts", True, stop=STOP)
        if rank == 0:
            for copy in ("on_one", "half_on_one", "half_on_two"):
                shutil.copytree(folder / "parts", folder / copy)
        train(data, folder / "parts", True, resume=True)
        train(data, folder / "half_on_two", True, resume=True, max_steps=STOP)
        for name, settings in VARIANTS.items():
            train(data, folder / name, True, **settings)
            train(data, folder / f"ddp_{name}", False, **settings)
        train(data, folder / "tuned", True, init_from=str(folder / "ddp"))
        torch.save(evaluate(folder, data), folder / f"evaluated_{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for processes, port in ((2, sys.argv[2]), (1, sys.argv[3])):
        mp.start_processes(_work, (folder, processes, port), processes, start_method="fork")
