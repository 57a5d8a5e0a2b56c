"""Applies a function to the rows of shards in worker processes. A row on which a decoder crashes is skipped.

A crash in C code ends the process that it happens in. That is why even one worker is another process. When a worker
ends, another one takes over its shards: it handles the rows of the next batch one by one and says each before, so that
the row on which it ends as well is known. That row becomes an `Unusable` with a reason, and the work goes on.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from vqlm.data_prep.sources.rows import Row, Shard, Unusable
from vqlm.training.errors import UserError

BATCH = 128
MAX_WORKERS = 8
# Workers in a row that end without a row that explains it: the memory is full, or a source crashes while it is read.
MOST_ENDED = 3

Output = TypeVar("Output")
Chunk = list[Row | Unusable]


def mapped_shards(
    shards: Sequence[Shard], function: Callable[[Chunk], Output], num_workers: int | None = None
) -> Iterator[tuple[int, Output, bool]]:
    """Apply `function` to all rows of `shards`, `BATCH` at a time, in worker processes.

    Yields (number of the shard, `function(rows)`, False), and at the end of a shard (number, `function([])`, True).
    The batches of one shard come in order; each worker reads other shards, so that batches of several shards alternate.

    Workers are processes, not threads: Python's lock would stop the caller's network at each step of theirs, and a
    decoder that crashes ends its process. `num_workers` is by default the number of cores less one; 0 is 1.

    Raises what `function` and the shards raise, and UserError if workers end without a row that explains it.
    """
    if num_workers is None:
        num_workers = min(MAX_WORKERS, (os.cpu_count() or 1) - 1)
    if multiprocessing.current_process().daemon:  # which may not start processes
        for message in _messages(shards, function, _ToDo(list(range(len(shards))))):
            yield message.number, message.output, message.is_last
        return
    # A tokenizer that has used threads would warn at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    count = max(1, min(num_workers, len(shards)))
    workers = [_Worker(shards, function, _ToDo(list(range(first, len(shards), count)))) for first in range(count)]
    try:
        while busy := [worker for worker in workers if worker.to_do.numbers]:
            for worker in busy:
                worker.start_if_ended([each.connection for each in workers if each.connection is not None])
            ready = set(wait([worker.connection for worker in busy if worker.connection is not None]))
            for worker in busy:
                message = worker.receive() if worker.connection in ready else None
                if message is not None:
                    yield message.number, message.output, message.is_last
    finally:
        for worker in workers:
            worker.stop()


@dataclass
class _ToDo:
    """numbers: of the shards that are not finished, in order. batches: of the first of them that are finished.
    crashed: how a process ended on rows of the next batch, by their place in it. first: of the rows of the next batch
    that are handled one by one, before all; None for none."""

    numbers: list[int]
    batches: int = 0
    crashed: dict[int, str] = field(default_factory=dict)
    first: int | None = None


@dataclass
class _Message:
    """What a worker gives: the output of a batch; or `row`, the place of the row that it handles next by itself, None
    after the last of them; or `error`, what was raised."""

    number: int = 0
    output: Any = None
    is_last: bool = False
    is_output: bool = True
    row: int | None = None
    error: BaseException | None = None


class _Worker:
    """One process after the other that finishes `to_do`."""

    def __init__(self, shards: Sequence[Shard], function: Callable[[Chunk], Any], to_do: _ToDo):
        self.shards, self.function, self.to_do = shards, function, to_do
        self.connection: Connection | None = None
        self.process: Any = None
        self.row: int | None = None  # that the process handles by itself
        self.suspect: int | None = None  # on which a process has ended once
        self.ended = 0  # processes in a row, without a row that explains it

    def start_if_ended(self, others: list[Connection]) -> None:
        if self.connection is not None:
            return
        is_fork = multiprocessing.get_context().get_start_method() == "fork"
        self.connection, theirs = multiprocessing.Pipe(duplex=False)
        arguments = (self.shards, self.function, self.to_do, theirs, os.getpid())
        inherited = [*others, self.connection] if is_fork else []
        self.process = multiprocessing.Process(target=_work, args=(*arguments, inherited), daemon=True)
        self.process.start()
        theirs.close()

    def receive(self) -> _Message | None:
        """The next output; None for other messages and if the process has ended."""
        assert self.connection is not None
        try:
            message: _Message = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            self._judge_end()
            return None
        if message.error is not None:
            raise message.error
        if not message.is_output:
            self.row = message.row
            return None
        to_do = self.to_do
        to_do.crashed, to_do.first, self.suspect = {}, None, None
        if message.is_last:
            to_do.numbers, to_do.batches = to_do.numbers[1:], 0
        else:
            to_do.batches += 1
        return message

    def _judge_end(self) -> None:
        """A row with which two processes end has crashed its decoder, the second time as the first row of a process."""
        self.stop()
        to_do, row, self.row = self.to_do, self.row, None
        if row is not None and row == self.suspect:
            to_do.crashed[row] = f"its decoder crashed ({self._how()})"
            to_do.first, self.suspect, self.ended = row + 1, None, 0
            return
        to_do.first, self.suspect, self.ended = row or 0, row, self.ended + 1
        if self.ended == MOST_ENDED:
            raise UserError(
                f"{self.ended} processes that read {self.shards[to_do.numbers[0]].name} have ended ({self._how()}): "
                "the memory is full, or the file crashes what reads it. Try fewer `num_workers`, or leave it out."
            )

    def _how(self) -> str:
        code = self.process.exitcode
        known = {each.value: each.name for each in signal.Signals}
        return known.get(-code, f"exit status {code}")

    def stop(self) -> None:
        if self.connection is None:
            return
        self.connection.close()
        self.connection = None
        self.process.join(0.2)  # one that has ended says how
        self.process.terminate()
        self.process.join()


def _work(
    shards: Sequence[Shard], function: Callable[[Chunk], Any], to_do: _ToDo, connection: Connection, parent: int,
    inherited: list[Connection],
) -> None:  # fmt: skip
    """A worker process."""
    for other in inherited:  # a copy that is left open would hide that the other side is gone
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    try:
        for message in _messages(shards, function, to_do):
            connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
    except BrokenPipeError:  # the parent needs no more
        return
    except BaseException as error:
        connection.send_bytes(pickle.dumps(_Message(error=_portable(error))))


def _messages(shards: Sequence[Shard], function: Callable[[Chunk], Any], to_do: _ToDo) -> Iterator[_Message]:
    batches, crashed, first = to_do.batches, to_do.crashed, to_do.first
    for number in to_do.numbers:
        rows = iter(shards[number].read())
        for _ in islice(rows, batches * BATCH):
            pass
        while chunk := list(islice(rows, BATCH)):
            for place, reason in crashed.items():
                chunk[place] = Unusable(chunk[place].key, reason)
            if first is not None:
                for place in range(first, len(chunk)):
                    yield _Message(row=place, is_output=False)
                    function([chunk[place]])
                yield _Message(is_output=False)
            crashed, first = {}, None
            yield _Message(number, function(chunk))
        batches = 0
        yield _Message(number, function([]), is_last=True)


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may have been killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _portable(error: BaseException) -> BaseException:
    """The error with the place where it was raised, or where it cannot be passed on, its text."""
    told = "".join(traceback.format_exception(error))
    try:
        error = pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(str(error))
    error.add_note(f"In a worker process:\n{told}")
    return error
