"""Renders SVG in another process, since some drawings abort the process that renders them, and some never end.

Run as a script, this file is that process: it reads requests from its standard input until that is closed. It imports
nothing of ours, so that it starts in milliseconds.
"""

import atexit
import os
import select
import struct
import subprocess
import sys
import threading
import time

REQUEST = struct.Struct("<QII")  # bytes of the SVG, width in pixels, bytes of the background's name
ANSWER = struct.Struct("<?Q")  # whether it was rendered, bytes of the PNG or of the reason
SECONDS = 20.0  # longest time for one drawing
MEMORY = 4 * 2**30  # bytes of address space
DPI = 96.0  # of CSS


class RenderingFailed(ValueError):
    """Its text says why a drawing could not be rendered, for people."""


class RenderProcess:
    """The other process of this one. It is started when it is needed, and again after a crash or a fork."""

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def render(self, svg: str, width: int, background: str) -> bytes:
        """The drawing as a PNG. Raises RenderingFailed."""
        content, colour = svg.encode(), background.encode()
        request = REQUEST.pack(len(content), width, len(colour)) + content + colour
        with self._lock:
            process = self._running()
            try:
                return self._answer(process, request)
            except TimeoutError:
                self.close()
                raise RenderingFailed(f"it takes longer than {SECONDS:g} seconds to render") from None
            except (OSError, EOFError):
                self.close()
                raise RenderingFailed("the renderer crashed on it") from None

    def close(self) -> None:
        """End the other process, if this one has started it."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def forget(self) -> None:
        """In a forked process, leave the renderer to the process that started it."""
        if self._process is not None:
            self._process.returncode = 0  # else its destructor would warn
        self.__init__()

    def _running(self) -> subprocess.Popen:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-P", os.path.abspath(__file__)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            self._owner = os.getpid()
        return self._process

    @staticmethod
    def _answer(process: subprocess.Popen, request: bytes) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + SECONDS
        process.stdin.write(request)
        process.stdin.flush()
        head = _read(process.stdout.fileno(), ANSWER.size, deadline)
        is_rendered, size = ANSWER.unpack(head)
        content = _read(process.stdout.fileno(), size, deadline)
        if not is_rendered:
            raise RenderingFailed(content.decode("utf-8", "replace"))
        return content


def _read(descriptor: int, size: int, deadline: float) -> bytes:
    parts = []
    while size:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(descriptor, size)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


RENDERER = RenderProcess()
atexit.register(RENDERER.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RENDERER.forget)


def _serve() -> None:
    """Answer requests until the other side is gone."""
    import resvg_py

    _limit_memory()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := requests.read(REQUEST.size):
        size, width, colour_size = REQUEST.unpack(head)
        svg, background = requests.read(size).decode(), requests.read(colour_size).decode()
        try:
            content, is_rendered = bytes(
                resvg_py.svg_to_bytes(
                    svg_string=svg, width=width, background=background, skip_system_fonts=True, dpi=DPI
                )
            ), True  # fmt: skip
        except BaseException as error:  # panics of the renderer are no Exception
            content, is_rendered = " ".join(str(error).split())[:300].encode(), False
        answers.write(ANSWER.pack(is_rendered, len(content)) + content)
        answers.flush()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _serve()
