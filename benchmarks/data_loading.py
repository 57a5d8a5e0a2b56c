"""What share of a training step waits for its data? It should be below 2%.

    python benchmarks/data_loading.py

Stage two reads packs from an Arrow file on disk and builds a batch from them; stage one takes pictures from memory.
Both run in the training process, as training does by default (num_workers 0).
"""

import statistics
import tempfile
import time
from typing import NamedTuple

import torch
from datasets import disable_progress_bars, load_from_disk
from generated import coloured_blocks
from measure import Report, Spread, choose, parser
from our_steps import MODELS, LanguageStep, Rows, TokenizerStep

from vqlm.data_prep import SequenceConfig
from vqlm.training.machine.allocator import keep_freed_memory
from vqlm.vq import NetworkConfig, VQVAEConfig


class Settings(NamedTuple):
    model: str = "5M"
    steps: int = 100
    warm_up: int = 3
    compile: bool = True
    pictures: int = 3555
    network: NetworkConfig = NetworkConfig()
    most_rows: int | None = None


TINY = Settings("tiny", 2, 1, False, 64, NetworkConfig(stem_channels=8, hidden_channels=16), 40)


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__).parse_args(arguments)
    settings = choose(options, Settings(), Settings(steps=15), TINY)
    keep_freed_memory()
    disable_progress_bars()
    report = Report("data_loading", __doc__, options)
    table = report.table("Waiting for data", ["stage", "step, ms", "of it data, ms", "share of all steps"])
    with tempfile.TemporaryDirectory() as folder:
        rows = Rows(most=settings.most_rows)
        rows.dataset().save_to_disk(folder)
        language = LanguageStep(
            rows, MODELS[settings.model], settings.compile, sequences=SequenceConfig(), dataset=load_from_disk(folder)
        )
        table.row(f"two, language model of {settings.model}", *waiting(language, settings))
    pictures = torch.from_numpy(coloured_blocks(settings.pictures, 64)).permute(0, 3, 1, 2).contiguous()
    table.row("one, VQ-VAE", *waiting(TokenizerStep(pictures, VQVAEConfig(network=settings.network)), settings))
    return report.save()


def waiting(step: LanguageStep | TokenizerStep, settings: Settings) -> tuple[Spread, Spread, str]:
    """Milliseconds per step, milliseconds that the step waits for data, and the share."""
    waited, whole = [], []
    for number in range(settings.warm_up + settings.steps):
        start = time.perf_counter()
        step()
        if number >= settings.warm_up:
            whole.append(1000 * (time.perf_counter() - start))
            waited.append(1000 * step.waited)
    return Spread.of(whole), Spread.of(waited), f"{statistics.fmean(waited) / statistics.fmean(whole):.2%}"


if __name__ == "__main__":
    main()
