"""A decoder that crashes ends a worker; the picture is skipped with a reason, and all others are read."""

import faulthandler
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from vqlm.data_prep import (
    Collection,
    CollectionConfig,
    TextConfig,
    load_collection,
    load_pictures,
    prepare,
)
from vqlm.data_prep.collections import worker_processes
from vqlm.data_prep.collections.copies import without_copies
from vqlm.data_prep.collections.inspection import inspect_collection
from vqlm.data_prep.collections.worker_processes import mapped_shards
from vqlm.data_prep.pictures import picture_files
from vqlm.data_prep.pictures.picture_files import open_picture, read_picture
from vqlm.data_prep.sources.rows import Row, Shard, Unusable
from vqlm.planning.facts import gather_facts
from vqlm.training.errors import UserError

SEGFAULT, ABORT = "its decoder crashed (SIGSEGV)", "its decoder crashed (SIGABRT)"
CRASHES = {b"segfault": signal.SIGSEGV, b"abort": signal.SIGABRT}


def rows_of(*names: str) -> Shard:
    return Shard("-".join(names)[:20], partial(iter, [Row(name, b"", (name,)) for name in names]), "")


def keys(chunk: list[Row | Unusable], deadly: dict[str, int]) -> list[str]:
    """The keys of the rows, and the reasons of others; rows in `deadly` end the process by that signal."""
    answer = []
    for row in chunk:
        if isinstance(row, Unusable):
            answer.append(f"{row.key}: {row.reason}")
            continue
        if row.key in deadly:
            faulthandler.disable()  # whose page would hide the outcome of the tests
            os.kill(os.getpid(), deadly[row.key])
        answer.append(row.key)
    return answer


def outputs(shards: list[Shard], function, num_workers: int | None) -> list[list[str]]:
    """By shard."""
    answers: list[list[str]] = [[] for _ in shards]
    for number, batch, _ in mapped_shards(shards, function, num_workers):
        answers[number] += batch
    return answers


@pytest.mark.parametrize("num_workers", [0, 1, 2, 5, None])
def test_rows_that_crash_are_skipped_and_all_others_come_in_order(monkeypatch, num_workers):
    monkeypatch.setattr(worker_processes, "BATCH", 3)
    deadly = {"b": signal.SIGSEGV, "c": signal.SIGABRT, "g": signal.SIGSEGV, "z": signal.SIGILL}
    shards = [rows_of(*"abcdefgh"), rows_of(*"xyz"), rows_of(*"123456"), rows_of()]
    assert outputs(shards, partial(keys, deadly=deadly), num_workers) == [
        ["a", f"b: {SEGFAULT}", f"c: {ABORT}", "d", "e", "f", f"g: {SEGFAULT}", "h"],
        ["x", "y", "z: its decoder crashed (SIGILL)"],
        list("123456"),
        [],
    ]


def test_each_shard_ends_once_and_batches_are_whole(monkeypatch):
    monkeypatch.setattr(worker_processes, "BATCH", 2)
    given = list(mapped_shards([rows_of(*"abcde")], partial(keys, deadly={"c": signal.SIGSEGV}), 1))
    assert given == [
        (0, ["a", "b"], False), (0, [f"c: {SEGFAULT}", "d"], False), (0, ["e"], False), (0, [], True)
    ]  # fmt: skip


def once(chunk: list[Row | Unusable], marks: Path, times: int) -> list[str]:
    """Ends the process at the row b, in the first `times` processes that come there."""
    for row in chunk:
        if row.key == "b" and len(list(marks.iterdir())) < times:
            (marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return [row.key for row in chunk]


@pytest.mark.parametrize("times", [1, 2])
def test_a_worker_that_is_killed_by_chance_costs_no_row(tmp_path, times):
    assert outputs([rows_of(*"abc")], partial(once, marks=tmp_path, times=times), 1) == [["a", "b", "c"]]


def together(chunk: list[Row | Unusable]) -> list[str]:
    """Ends the process where it is given more than one row."""
    if len(chunk) > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return []


def test_workers_that_no_row_ends_are_an_error():
    with pytest.raises(UserError, match=r"3 processes that read a-b have ended \(SIGKILL\): the memory is full, or"):
        outputs([rows_of("a", "b")], together, 1)


def dying_source() -> Iterator[Row]:
    yield Row("a", b"", ("a",))
    faulthandler.disable()
    os.abort()


def test_a_source_that_crashes_is_an_error():
    with pytest.raises(UserError, match=r"3 processes that read x\.parquet have ended \(SIGABRT\)"):
        outputs([Shard("x.parquet", dying_source, "")], partial(keys, deadly={}), 1)


class _Odd(Exception):
    def __init__(self, first: str, second: str):
        super().__init__(f"{first} and {second}")


def failing(chunk: list[Row | Unusable], error: BaseException) -> None:
    raise error


def test_errors_of_the_function_are_raised_here():
    with pytest.raises(UserError, match="^no such column") as raised:
        outputs([rows_of("a")], partial(failing, error=UserError("no such column")), 2)
    assert "in failing" in raised.value.__notes__[0]
    with pytest.raises(RuntimeError, match="^this and that"):
        outputs([rows_of("a")], partial(failing, error=_Odd("this", "that")), 0)


def endless(folder: Path) -> Iterator[Row]:
    (folder / str(os.getpid())).touch()
    while True:
        yield Row("a", b"", ("a",))


def test_no_worker_is_left(tmp_path):
    shards = [Shard(f"{number}", partial(endless, tmp_path), "") for number in range(3)]
    batches = mapped_shards(shards, partial(keys, deadly={}), 3)
    for _ in range(6):
        next(batches)
    batches.close()
    assert not multiprocessing.active_children()
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)


def read_forever(folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in mapped_shards([Shard("x", partial(endless, folder), "")], partial(keys, deadly={}), 1):
        pass


def test_workers_end_with_a_killed_parent(tmp_path):
    parent = multiprocessing.get_context("fork").Process(target=read_forever, args=(tmp_path,))
    parent.start()
    while not list(tmp_path.iterdir()):
        time.sleep(0.05)
    parent.kill()
    parent.join()
    worker = int(next(tmp_path.iterdir()).name)
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":  # ended; no one has asked for its status
            return
        time.sleep(0.1)
    pytest.fail("the worker still runs")


# What is built on it


@pytest.fixture
def crashing_folder(tmp_path, monkeypatch) -> Path:
    """Twelve pictures, of which the decoder crashes on two, and a twin of the first."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (20, 20), (number, 9, 9)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"number {number}")
    (folder / "03.png").write_bytes(b"segfault")
    (folder / "07.png").write_bytes(b"abort")
    (folder / "twin.png").write_bytes((folder / "00.png").read_bytes())
    (folder / "twin.txt").write_text("a twin")
    is_svg = picture_files._is_svg

    def decode(image: bytes | Path) -> bool:
        if (number := CRASHES.get(image.read_bytes()[:8] if isinstance(image, Path) else image[:8])) is not None:
            faulthandler.disable()
            os.kill(os.getpid(), number)
        return is_svg(image)

    monkeypatch.setattr(picture_files, "_is_svg", decode)
    return folder


def without(folder: Path, other: Path) -> Path:
    """The folder without the pictures that crash."""
    other.mkdir()
    for path in folder.iterdir():
        if path.stem not in ("03", "07"):
            (other / path.name).write_bytes(path.read_bytes())
    return other


def lenient(folder: Path) -> Collection:
    # The keys decide what is held out; a small collection would hold out another picture without them.
    return load_collection(str(folder), 16, CollectionConfig(max_skipped=0.5, held_out="1*"))


SKIPPED = {("03.png", SEGFAULT), ("07.png", ABORT)}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_doctor_names_pictures_that_crash(crashing_folder, num_workers):
    inspection = inspect_collection(lenient(crashing_folder), (16, 16), num_workers)
    assert {(row.key, row.reason) for row in inspection.skipped.rows} == SKIPPED
    assert inspection.usable == 11


def test_stage_one_reads_the_others(crashing_folder, tmp_path):
    pictures = load_pictures(lenient(crashing_folder), (16, 16))
    assert {(row.key, row.reason) for row in pictures.skipped.rows} == SKIPPED
    alone = load_pictures(lenient(without(crashing_folder, tmp_path / "others")), (16, 16))
    assert pictures.train.equal(alone.train)
    assert pictures.held_out.equal(alone.held_out)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_a_prepared_set_is_the_same_as_without_them(crashing_folder, tmp_path, tiny_vqvae, num_workers):
    text = TextConfig(size=280)
    given = {"text": text, "num_workers": num_workers}
    prepared = prepare(lenient(crashing_folder), tiny_vqvae, tmp_path / "data", "x", **given)
    others = lenient(without(crashing_folder, tmp_path / "others"))
    alone = prepare(others, tiny_vqvae, tmp_path / "alone", "x", **given)
    assert prepared.train[:] == alone.train[:]
    assert prepared.held_out["held_out"]["codes"] == alone.held_out["held_out"]["codes"]
    assert prepared.manifest["skipped"] == 2


def test_copies_are_found_among_the_others(crashing_folder):
    chosen = without_copies(lenient(crashing_folder))
    assert chosen.notes[-1] == "1 of 11 pictures are copies of another, left out"


@pytest.mark.parametrize("read", [open_picture, read_picture])
def test_a_picture_of_a_tool_that_crashes_is_one_sentence(crashing_folder, tiny_vqvae, read):
    more = (tiny_vqvae.image_processor,) if read is read_picture else ()
    with pytest.raises(UserError, match=r"03\.png cannot be used: its decoder crashed \(SIGSEGV\)\.$"):
        read(crashing_folder / "03.png", *more)
    assert read(crashing_folder / "01.png", *more).getpixel((0, 0)) == (1, 9, 9)


def test_a_plan_is_made_of_the_others(crashing_folder):
    facts = gather_facts(lenient(crashing_folder))
    assert facts.counted == 13
    assert facts.median_side == 20
