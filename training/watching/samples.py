"""Pictures of what a run can do so far: a row now and then, in a strip that grows, for a small share of the time."""

import math
import textwrap
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from vqlm.training.folders.whole_files import replace_file, write_json
from vqlm.training.watching.font import label_font

# The samples may take this share of the training time.
TIME_SHARE = 0.02
# How long a picture takes is not known before the first; it is drawn once the training has gone on for so long.
SECONDS_BEFORE_FIRST = 5.0
GAP, LABEL_WIDTH, LABEL_HEIGHT = 2, 44, 12
NAME_LINES, LETTER_SIZE, LETTER_WIDTH = 3, 10, 7  # a name above its column: lines at most, pixels per letter
STRIP, NAMES, ORIGINALS = "strip.png", "names.json", "originals.png"

DrawPictures = Callable[[int, int], list[Image.Image]]


@dataclass(frozen=True)
class SampleSource:
    """What a stage shows of itself.

    Args:
        draw: called as `draw(start, stop)` for the pictures of those places in a row; it has its own random numbers.
        names: of the places, such as prompts.
        originals: pictures that head the strip, to compare with.
    """

    draw: DrawPictures
    names: list[str]
    originals: list[Image.Image] = field(default_factory=list)


class Samples:
    """`run/samples/`: one row of pictures per `every` of the budget, and `strip.png`, which has all of them.

    Where a row would take more than its share of the time, it has fewer pictures, or waits. Drawing leaves the random
    state of the training as it is.

    Args:
        folder: for the files.
        every: share of the budget between two rows; 0 draws none.
        draws: whether this process draws.
    """

    def __init__(self, folder: Path, every: float, draws: bool):
        self.folder, self.every, self.draws = folder, every, draws and every > 0
        self.source: SampleSource | None = None
        self._seconds_per_picture: float | None = None
        self._rows_due = 0
        self.last_seconds = self._saving_seconds = 0.0

    def continue_at(self, step: int, share: float) -> None:
        """Forget the rows after `step`, which a continued run draws again."""
        self._rows_due = math.floor(share / self.every + 1e-6) if self.every else 0
        if self.draws:
            for path in self._rows():
                if int(path.stem) > step:
                    path.unlink()
            if step == 0:
                (self.folder / STRIP).unlink(missing_ok=True)

    def begin(self, source: SampleSource | None) -> None:
        """Draw from `source` from now on; None where the stage has no pictures."""
        self.source = source
        if not self.draws or source is None or not source.names:
            self.source = None
            return
        write_json(self.folder / NAMES, source.names)
        if source.originals:
            self._save(_side_by_side(source.originals), ORIGINALS)

    def add_row(self, step: int, share: float, seconds: float, spent: float) -> Image.Image | None:
        """The row of this step, saved and added to the strip; None where no row is due or there is no time for one.

        Args:
            step: optimizer steps done.
            share: of the budget, spent.
            seconds: of the training so far.
            spent: of those, on samples.
        """
        due = math.floor(share / self.every + 1e-6) if self.every else 0
        if self.source is None or due <= self._rows_due or seconds < SECONDS_BEFORE_FIRST:
            return None
        allowed, count = TIME_SHARE * seconds - spent - self._saving_seconds, len(self.source.names)
        if self._seconds_per_picture is not None and allowed < self._seconds_per_picture:
            return None
        pictures, began = [], time.monotonic()
        if self._seconds_per_picture is None:  # the first tells how many more there is time for
            pictures = self._draw(0, 1)
            assert self._seconds_per_picture is not None
            allowed -= self._seconds_per_picture
        affordable = max(0, int(allowed / self._seconds_per_picture))
        if (stop := min(count, len(pictures) + affordable)) > len(pictures):
            pictures += self._draw(len(pictures), stop)
        drawn = time.monotonic()
        self._rows_due = due
        row = _side_by_side(pictures)
        self._save(row, f"{step:08}.png")
        self._save(self._strip(pictures[0].width + GAP), STRIP)
        self.last_seconds, self._saving_seconds = time.monotonic() - began, time.monotonic() - drawn
        return row

    def _draw(self, start: int, stop: int) -> list[Image.Image]:
        assert self.source is not None
        began = time.monotonic()
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of prompts and decoders: drawing says them, once a picture is wanted
            pictures = self.source.draw(start, stop)
        self._seconds_per_picture = max(time.monotonic() - began, 1e-6) / max(1, stop - start)
        return pictures

    def _rows(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.png") if path.stem.isdigit())

    def _strip(self, column_width: int) -> Image.Image:
        """All rows, each with its step, under the names and the originals."""
        assert self.source is not None
        rows: list[tuple[str, Image.Image]] = [("", _names(self.source.names, column_width))]
        if (self.folder / ORIGINALS).exists():
            rows.append(("", Image.open(self.folder / ORIGINALS)))
        rows += [(f"{int(path.stem):,}", Image.open(path)) for path in self._rows()]
        size = (LABEL_WIDTH + max(row.width for _, row in rows), sum(row.height for _, row in rows))
        strip = Image.new("RGB", size, "white")
        pen, top = ImageDraw.Draw(strip), 0
        for label, row in rows:
            pen.text((2, top + max(0, row.height - LABEL_HEIGHT) // 2), label, fill="black")
            strip.paste(row, (LABEL_WIDTH, top))
            top += row.height
        return strip

    def _save(self, picture: Image.Image, name: str) -> None:
        """Whoever looks at the file sees the old picture or the new one."""
        replace_file(self.folder / name, lambda path: picture.save(path, "PNG"))


def as_array(row: Image.Image) -> np.ndarray:
    """A row of pictures, (1, H, W, 3) uint8, as trackers take it."""
    return np.asarray(row)[None]


def _names(names: list[str], column_width: int) -> Image.Image:
    """The names in columns, as much of each as fits above its pictures."""
    row = Image.new("RGB", (column_width * len(names), NAME_LINES * LABEL_HEIGHT + GAP), "white")
    pen, letters = ImageDraw.Draw(row), max(1, column_width // LETTER_WIDTH)
    font = label_font(LETTER_SIZE)
    for number, name in enumerate(names):
        lines = (
            textwrap.wrap(name, letters, max_lines=NAME_LINES, placeholder="...") if letters > 3 else [name[:letters]]
        )
        for place, line in enumerate(lines):
            pen.text((number * column_width, place * LABEL_HEIGHT), line, fill="black", font=font)
    return row


def _side_by_side(pictures: list[Image.Image]) -> Image.Image:
    pictures = [picture.convert("RGB") for picture in pictures]
    width = sum(picture.width + GAP for picture in pictures)
    row = Image.new("RGB", (width, max(picture.height for picture in pictures) + GAP), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + GAP
    return row
