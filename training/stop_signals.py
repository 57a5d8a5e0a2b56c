"""SIGINT and SIGTERM end a run after the current step, with a checkpoint."""

import signal
import time

# A launcher passes on a signal that its processes have received too, as when Slurm ends a job.
REPEAT_SECONDS = 1.0


class Interrupted(SystemExit):
    """The run stopped at a signal; a checkpoint holds its state. A script exits with the status of that signal.

    `message` says where it stopped.
    """

    def __init__(self, status: int, message: str):
        super().__init__(status)
        self.message = message


class StopSignals:
    """While the context is open, the first SIGINT or SIGTERM is kept in `received`; a later one ends the program.

    One that follows within `REPEAT_SECONDS` is taken for the same.
    """

    def __init__(self):
        self.received: int | None = None
        self._received_at = 0.0

    def __enter__(self):
        try:
            self.before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: the caller keeps its own handling
            self.before = {}

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number, _frame):
        if self.received is None:
            self.received, self._received_at = number, time.monotonic()
        elif time.monotonic() - self._received_at > REPEAT_SECONDS:
            raise KeyboardInterrupt
