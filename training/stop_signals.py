"""SIGINT and SIGTERM end a run after the current step, with a checkpoint."""

import signal


class Interrupted(SystemExit):
    """The run stopped at a signal; a checkpoint holds its state. A script exits with the status of that signal.

    `message` says where it stopped.
    """

    def __init__(self, status: int, message: str):
        super().__init__(status)
        self.message = message


class StopSignals:
    """While the context is open, the first SIGINT or SIGTERM is kept in `received`; a second one ends the program."""

    def __init__(self):
        self.received: int | None = None

    def __enter__(self):
        try:
            self.before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: the caller keeps its own handling
            self.before = {}

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number, _frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
