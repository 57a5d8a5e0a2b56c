"""How fast does stage two train, against the transformers Trainer and dalle-pytorch's DALLE, and how near the machine?

    python benchmarks/lm_training.py

OpenMoji's names with 64 random codes each, batches of about 32 rows, fused AdamW and bf16 for all, in turns. Tokens are
counted without padding, and a row counts for every trainer as many tokens as the Trainer's row predicts, so that the
ratio of tokens is the ratio of rows. Share of the peak: 6 * parameters * tokens per second (2 for the forward, 4 for
the backward, without attention), divided by the bf16 matrix peak, which is measured in every round too.
"""

import functools
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from measure import Report, Spread, choose, in_turns, parser, ratio
from our_steps import CODEBOOK_SIZE, EQUAL, MODELS, TEXT_SIZE, LanguageStep, Rows, repeated, update
from peer_dalle import PACKAGE, build_dalle, load, pad_texts, trainable
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from vqlm.lm.model import build_language_model
from vqlm.lm.settings import LanguageModelConfig
from vqlm.training.machine.allocator import keep_freed_memory
from vqlm.training.machine.matrix_peak import matrix_peak

BATCH = 32
OURS, TRAINER, DALLE, PEAK = "here", "transformers Trainer", "dalle-pytorch DALLE", "matrix peak"


class Settings(NamedTuple):
    """steps: per model and round. dalle: width and depth, with about as many parameters as `dalle_beside`."""

    steps: dict[str, int]
    rounds: int
    dalle: tuple[int, int] = (256, 4)
    dalle_beside: str = "5M"
    compile: bool = True
    most_rows: int | None = None


FULL = Settings({"5M": 20, "85M": 4}, 5)
QUICK = Settings({"5M": 4}, 2)
TINY = Settings({"tiny": 1}, 1, dalle=(64, 1), dalle_beside="tiny", compile=False, most_rows=40)


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__).parse_args(arguments)
    settings = choose(options, FULL, QUICK, TINY)
    keep_freed_memory()
    report = Report("lm_training", __doc__, options, [PACKAGE])
    rows = Rows(most=settings.most_rows)
    table = report.table(
        f"Training steps of stage two, {rows.tokens_a_row:.1f} tokens per row in the mean",
        ["model", "trainer", "parameters", "step, s", "tokens/s", "share of bf16 matrix peak", "here / it"],
    )
    for name, steps in settings.steps.items():
        tasks, sizes = trainers(rows, MODELS[name], steps, settings.compile)
        if name == settings.dalle_beside:
            package = load()
            if isinstance(package, str):
                report.remark(f"{DALLE} is left out: {package}.")
            else:
                tasks[DALLE], sizes[DALLE] = dalle_trainer(package, rows, settings.dalle, steps)
        timings = in_turns(tasks, settings.rounds)
        tokens = dict.fromkeys(sizes, BATCH * rows.tokens_a_row)
        tokens[OURS] = tasks[OURS].tokens  # type: ignore[attr-defined]
        for trainer, parameters in sizes.items():
            rates = [tokens[trainer] / seconds for seconds in timings[trainer]]
            ours = [tokens[OURS] / seconds for seconds in timings[OURS]]
            share = Spread.of(6 * parameters * r / peak / 1e9 for r, peak in zip(rates, timings[PEAK], strict=True))
            table.row(
                name, trainer, parameters, Spread.of(timings[trainer]), Spread.of(rates), share, ratio(ours, rates)
            )
    report.remark(
        "Here: packed rows, code noise and smoothed targets as scripts/train_lm.py has them by "
        "default, but AdamW instead of Muon and no row without its caption. The Trainer: rows padded to the longest "
        "of a batch, its model's own loss. DALLE: its own network and loss, autocast."
    )
    return report.save()


class Steps:
    """Mean seconds per step over `count` steps of ours."""

    def __init__(self, step: LanguageStep, count: int):
        self.step, self.count = step, count
        self.seen: list[int] = []
        step()  # compiles

    def __call__(self) -> float:
        start = time.perf_counter()
        for _ in range(self.count):
            self.step()
            self.seen.append(self.step.tokens)
        return (time.perf_counter() - start) / self.count

    @property
    def tokens(self) -> float:
        """Mean over the steps so far."""
        return sum(self.seen) / len(self.seen)


def trainers(
    rows: Rows, config: LanguageModelConfig, steps: int, compile: bool
) -> tuple[dict[str, Callable[[], float]], dict[str, int]]:
    """The tasks (ours, the Trainer, the matrix peak), and the number of parameters of the two models."""
    ours = LanguageStep(rows, config, compile, batch_size=BATCH, sequences=EQUAL)
    theirs = build_language_model(config, rows.vocabulary, rows.num_codes + rows.longest + 8)
    tasks = {
        OURS: Steps(ours, steps),
        TRAINER: functools.partial(run_trainer, theirs, rows, trainer_rows(rows), steps),
        PEAK: functools.partial(matrix_peak, torch.bfloat16, torch.device("cpu"), 0.05 if steps == 1 else 1.0),
    }
    return tasks, {OURS: ours.parameters, TRAINER: trainable(theirs)}


# transformers' Trainer, as its documentation has it


class Clock(TrainerCallback):
    """Records when each step ended."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, *_args, **_kwargs):
        self.ends.append(time.perf_counter())


def run_trainer(model: PreTrainedModel, rows: Rows, data: list[dict], steps: int) -> float:
    """Mean seconds per step without the first, which includes the set-up."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps + 1, per_device_train_batch_size=BATCH, bf16=True, use_cpu=True,
            optim="adamw_torch_fused", save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        collator = DataCollatorForLanguageModeling(rows.vocabulary.tokenizer, mlm=False)
        trainer = Trainer(model, arguments, collator, train_dataset=data, callbacks=[clock])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return (clock.ends[-1] - clock.ends[0]) / steps


def trainer_rows(rows: Rows) -> list[dict]:
    """Rows `bos caption boi codes eoi eos` as the Trainer takes them."""
    vocabulary = rows.vocabulary
    ids = vocabulary.codes_to_ids(torch.from_numpy(rows.codes.astype("int64"))).tolist()
    rows = [
        [vocabulary.bos, *text, vocabulary.boi, *codes, vocabulary.eoi, vocabulary.eos]
        for text, codes in zip(rows.tokens, ids, strict=True)
    ]
    return [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]


# dalle-pytorch's DALLE


def dalle_trainer(package, rows: Rows, size: tuple[int, int], steps: int) -> tuple[Callable[[], float], int]:
    side = round(rows.num_codes**0.5)
    model = build_dalle(package, TEXT_SIZE + 1, rows.longest, side, CODEBOOK_SIZE, *size).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=3e-4, fused=True)
    codes = torch.from_numpy(rows.codes.astype("int64"))
    pairs = list(zip(pad_texts(rows.tokens, rows.longest), codes, strict=True))
    batches = repeated(DataLoader(pairs, BATCH, shuffle=True, drop_last=True))  # type: ignore[arg-type]

    def step(batch: tuple[Tensor, Tensor]) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(*batch, return_loss=True)
        update(loss, model, [optimizer], 1.0)

    def run() -> float:
        step(next(batches))
        start = time.perf_counter()
        for _ in range(steps):
            step(next(batches))
        return (time.perf_counter() - start) / steps

    return run, trainable(model)


if __name__ == "__main__":
    main()
