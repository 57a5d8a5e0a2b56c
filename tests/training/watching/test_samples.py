"""Samples: which rows are drawn when, in how much time, into which files, and without a trace in the training."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import vqlm.training.watching.samples as module
from vqlm.training.watching.samples import GAP, LABEL_HEIGHT, LABEL_WIDTH, NAME_LINES, Samples, SampleSource

SIDE = 10
NAMES_HEIGHT = NAME_LINES * LABEL_HEIGHT + GAP


@pytest.fixture
def clock(monkeypatch):
    """The time as `samples` sees it; a picture takes `clock.per_picture` seconds."""
    clock = SimpleNamespace(now=0.0, per_picture=1.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def source(clock) -> SampleSource:
    """Four pictures of another grey each."""

    def draw(start: int, stop: int) -> list[Image.Image]:
        torch.rand(7)
        clock.now += clock.per_picture * (stop - start)
        return [Image.new("RGB", (SIDE, SIDE), (50 * number,) * 3) for number in range(start, stop)]

    return SampleSource(draw, ["a", "b", "c", "d"])


def make(folder: Path, source: SampleSource, every: float = 0.25) -> Samples:
    samples = Samples(folder, every, draws=True)
    samples.begin(source)
    return samples


def rows_in(folder: Path) -> dict[int, int]:
    """By step, how many pictures its row has."""
    files = [path for path in folder.glob("*.png") if path.stem.isdigit()]
    return {int(path.stem): Image.open(path).width // (SIDE + GAP) for path in sorted(files)}


def test_a_row_per_share_of_the_budget(tmp_path, source):
    samples = make(tmp_path, source)
    for step in range(1, 9):  # 8 steps, each of 1,000 seconds
        samples.add_row(step, step / 8, 1000.0 * step, 0.0)
    assert rows_in(tmp_path) == {2: 4, 4: 4, 6: 4, 8: 4}
    strip = Image.open(tmp_path / "strip.png")
    assert strip.size == (LABEL_WIDTH + 4 * (SIDE + GAP), NAMES_HEIGHT + 4 * (SIDE + GAP))
    assert [strip.getpixel((LABEL_WIDTH + (SIDE + GAP) * number, NAMES_HEIGHT))[0] for number in range(4)] == [
        0,
        50,
        100,
        150,
    ]


@pytest.mark.parametrize(
    ("seconds", "spent", "pictures"),
    [
        (1000.0, 0.0, 4),  # 2% of them are 20 s, for four pictures of one second each
        (150.0, 0.0, 3),
        (100.0, 0.0, 2),
        (100.0, 1.5, 1),  # the first is always drawn, since nobody knows how long it takes
        (4.0, 0.0, None),  # too early to tell
    ],
)
def test_no_more_pictures_than_there_is_time_for(tmp_path, source, seconds, spent, pictures):
    samples = make(tmp_path, source)
    row = samples.add_row(1, 0.5, seconds, spent)
    assert rows_in(tmp_path) == ({} if pictures is None else {1: pictures})
    assert (row is None) == (pictures is None)
    assert samples.last_seconds == (pictures or 0)


def test_a_row_waits_until_there_is_time(tmp_path, source):
    samples, spent = make(tmp_path, source, every=0.01), 0.0
    for step in range(1, 101):  # 100 steps of 4 seconds: 0.08 s each for samples, where a picture takes 1
        if samples.add_row(step, step / 100, 4.0 * step, spent) is not None:
            spent += samples.last_seconds
            assert spent <= max(1.0, 0.02 * 4.0 * step)
    assert rows_in(tmp_path) == {2: 1, **dict.fromkeys((25, 38, 50, 63, 75, 88, 100), 1)}


def test_a_continued_run_forgets_the_rows_after_its_checkpoint(tmp_path, source):
    samples = make(tmp_path, source)
    for step in range(1, 7):
        samples.add_row(step, step / 8, 1000.0 * step, 0.0)
    continued = Samples(tmp_path, 0.25, draws=True)
    continued.continue_at(3, 3 / 8)
    assert list(rows_in(tmp_path)) == [2]
    continued.begin(source)
    for step in range(4, 9):
        continued.add_row(step, step / 8, 1000.0 * step, 0.0)
    assert list(rows_in(tmp_path)) == [2, 4, 6, 8]


def test_drawing_leaves_the_random_state(tmp_path, source):
    before = torch.get_rng_state()
    assert make(tmp_path, source).add_row(1, 1.0, 1000.0, 0.0) is not None
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("every", "draws"), [(0.0, True), (0.25, False)])
def test_nothing_is_drawn_or_written_where_it_is_not_wanted(tmp_path, source, every, draws):
    samples = Samples(tmp_path / "samples", every, draws)
    samples.continue_at(0, 0.0)
    samples.begin(source)
    assert samples.add_row(1, 1.0, 1000.0, 0.0) is None
    assert not (tmp_path / "samples").exists()


def test_names_stand_above_their_columns(tmp_path, clock, source):
    """The names of the second and the fourth column are ink, those of the others are blank."""
    named = replace(source, names=[" ", "lllll", " ", "wwwww"])
    clock.per_picture = 0.0
    assert make(tmp_path, named).add_row(step=1, share=0.25, seconds=100, spent=0) is not None
    strip = Image.open(tmp_path / "strip.png").convert("L")
    columns = [LABEL_WIDTH + (SIDE + GAP) * number for number in range(5)]
    darkest = [
        strip.crop((left, 0, right, NAMES_HEIGHT)).getextrema()[0] for left, right in itertools.pairwise(columns)
    ]
    assert [value < 128 for value in darkest] == [False, True, False, True]


def test_originals_head_the_strip(tmp_path, source):
    originals = [Image.new("RGB", (SIDE, SIDE), "red") for _ in itertools.repeat(None, 4)]
    samples = make(tmp_path, SampleSource(source.draw, source.names, originals))
    samples.add_row(1, 1.0, 1000.0, 0.0)
    strip = Image.open(tmp_path / "strip.png")
    assert strip.getpixel((LABEL_WIDTH, NAMES_HEIGHT)) == (255, 0, 0)
    assert strip.getpixel((LABEL_WIDTH, NAMES_HEIGHT + SIDE + GAP)) == (0, 0, 0)
