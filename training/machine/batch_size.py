"""A batch size that fits into memory, found by trying."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from accelerate.utils import find_executable_batch_size

from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json

Config = TypeVar("Config", bound=TrainingConfig)
T = TypeVar("T")


def with_fitting_batch(config: Config, output: Path, resume: bool, train: Callable[[Config], T]) -> T:
    """`train(config)`, again with half the batch and twice the accumulation each time that memory is short.

    A step learns from as many rows as before; from one fewer where an odd batch is halved, which is said. A run that
    is continued keeps the batch that it was found to have.

    Raises:
        UserError: for several processes, of which one alone may be short of memory; if not even one row fits; if memory
            is short once there is a checkpoint, whose rows come in the order of its batches.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("`find_batch_size` works in one process; find the size there, then set `batch_size`.")
    config = _found_before(replace(config, find_batch_size=False), output, resume)

    def halve() -> int:
        nonlocal config
        if (output / "run" / "checkpoint").exists():
            raise UserError(
                f"Memory is short with batch_size {config.batch_size}, after a checkpoint in {output}. Train in "
                f"another `output` with {_described(_halved(config))}."
            )
        if config.batch_size == 1:
            raise UserError("Not even one row fits into memory; take a smaller model or smaller pictures.")
        before, config = rows_of(config), _halved(config)
        change = "" if rows_of(config) == before else f": {rows_of(config)} rows per step instead of {before}"
        print(f"memory is short; tries again with {_described(config)}{change}", flush=True)
        return config.batch_size

    @find_executable_batch_size(starting_batch_size=config.batch_size, reduce_batch_size_fn=halve)
    def attempt(_batch_size: int) -> T:
        return train(config)

    return attempt()  # type: ignore[call-arg]  # which the decorator gives


def rows_of(config: TrainingConfig) -> int:
    """Rows that a step of one process learns from."""
    return config.batch_size * config.gradient_accumulation_steps


def _halved(config: Config) -> Config:
    return replace(
        config, batch_size=config.batch_size // 2, gradient_accumulation_steps=2 * config.gradient_accumulation_steps
    )


def _described(config: TrainingConfig) -> str:
    return f"batch_size {config.batch_size} and gradient_accumulation_steps {config.gradient_accumulation_steps}"


def _found_before(config: Config, output: Path, resume: bool) -> Config:
    """`config` with the batch of the run in `output` that is continued, if halving comes to it."""
    if not resume or not (output / "run" / "checkpoint").exists():
        return config
    found, tried = read_json(output / "run" / "settings.json").get("batch_size"), config
    while tried.batch_size > 1 and tried.batch_size != found:
        tried = _halved(tried)
    return tried if tried.batch_size == found else config
