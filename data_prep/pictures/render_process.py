"""Renders SVG and decodes uploads in another process, since some abort the process that does it, and some never end.

Run as a script, this file is that process: it reads requests from its standard input until that is closed. It imports
nothing of ours, so that it starts in milliseconds.
"""

import atexit
import contextlib
import io
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

# Whether it is an SVG, the number of its bytes, the width in pixels of an SVG or the most pixels of another picture,
# the number of bytes of the text that follows: the background of an SVG, or the formats that are accepted.
REQUEST = struct.Struct("<?QQI")
ANSWER = struct.Struct("<?Q")  # whether it was rendered, bytes of the PNG or of the reason
SECONDS = 20.0  # longest time for one picture
MEMORY = 4 * 2**30  # bytes of address space
DPI = 96.0  # of CSS


class RenderingFailed(ValueError):
    """Its text says why a picture could not be rendered or decoded, for people."""


class RenderProcess:
    """The other process of this one. It is started when it is needed, and again after a crash or a fork."""

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def render(self, svg: str, width: int, background: str) -> bytes:
        """The drawing as a PNG. Raises RenderingFailed."""
        return self._ask(True, svg.encode(), width, background.encode(), "render", "the renderer")

    def decode(self, content: bytes, max_pixels: int, formats: Sequence[str]) -> bytes:
        """A picture of one of `formats` as a PNG, upright, with its transparency. Raises RenderingFailed."""
        return self._ask(False, content, max_pixels, " ".join(formats).encode(), "decode", "its decoder")

    def _ask(self, is_svg: bool, content: bytes, size: int, text: bytes, doing: str, what: str) -> bytes:
        request = REQUEST.pack(is_svg, len(content), size, len(text)) + content + text
        with self._lock:
            process = self._running()
            try:
                return self._answer(process, request)
            except TimeoutError:
                self.close()
                raise RenderingFailed(f"it takes longer than {SECONDS:g} seconds to {doing}") from None
            except (OSError, EOFError):
                self.close()
                raise RenderingFailed(f"{what} crashed on it") from None

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
    _limit_memory()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := requests.read(REQUEST.size):
        is_svg, length, size, text_length = REQUEST.unpack(head)
        content, text = requests.read(length), requests.read(text_length).decode()
        try:
            answer, is_rendered = (_rendered if is_svg else _decoded)(content, size, text), True
        except BaseException as error:  # panics of the renderer are no Exception
            reason = " ".join(str(error).split()) or type(error).__name__
            answer, is_rendered = reason[:300].encode(), False
        answers.write(ANSWER.pack(is_rendered, len(answer)) + answer)
        answers.flush()


def _rendered(svg: bytes, width: int, background: str) -> bytes:
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=svg.decode(), width=width, background=background, skip_system_fonts=True, dpi=DPI
    )
    return bytes(png)


def _decoded(content: bytes, max_pixels: int, formats: str) -> bytes:
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        picture: Image.Image = Image.open(io.BytesIO(content), formats=formats.split())
    except UnidentifiedImageError:
        raise ValueError(f"it is none of {formats.replace(' ', ', ')}") from None
    except Image.DecompressionBombError:
        raise ValueError(f"it has more than {max_pixels:,} pixels; scale it down") from None
    if picture.width * picture.height > max_pixels:
        raise ValueError(f"it is {picture.width}x{picture.height}, more than {max_pixels:,} pixels; scale it down")
    picture.load()
    has_alpha = bool({"A", "a"} & set(picture.getbands())) or "transparency" in picture.info
    with contextlib.suppress(Exception):  # damaged EXIF, which many photographs have, is of no importance
        picture = ImageOps.exif_transpose(picture)
    if has_alpha or picture.mode not in ("1", "L", "P", "RGB", "I;16", "I"):
        picture = picture.convert("RGBA" if has_alpha else "RGB")
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=0)
    return file.getvalue()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _serve()
