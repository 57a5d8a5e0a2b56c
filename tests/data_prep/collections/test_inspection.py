"""What an inspection finds in a collection, and what it says of it."""

import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vqlm.data_prep import load_collection
from vqlm.data_prep.collections.inspection import findings, inspect_collection
from vqlm.data_prep.collections.inspection_page import aspect_table, page, size_summary, write_copies
from vqlm.data_prep.splits import is_held_out
from vqlm.training.errors import UserError

SIZE = (16, 16)


def write(folder: Path, name: str, picture: Image.Image, caption: str = "a thing") -> None:
    folder.mkdir(exist_ok=True)
    picture.save(folder / name)
    (folder / name).with_suffix(".txt").write_text(caption)


def noise(width: int = 16, height: int = 16) -> Image.Image:
    return Image.fromarray(torch.randint(256, (height, width, 3), dtype=torch.uint8).numpy())


@pytest.fixture
def folder(tmp_path) -> Path:
    """220 different pictures of 16x16."""
    for number in range(220):
        write(tmp_path / "pictures", f"{number:03}.png", noise(), f"thing {number}")
    return tmp_path / "pictures"


def inspect(folder: Path, max_caption_tokens: int = 64):
    inspection = inspect_collection(load_collection(str(folder)), SIZE, num_workers=0)
    return inspection, *findings(inspection, SIZE, max_caption_tokens)


def test_nothing_wrong(folder):
    inspection, wrong, remarks = inspect(folder)
    assert (wrong, remarks) == ([], [])
    assert inspection.usable == inspection.num_captions == 220
    assert inspection.splits["held_out"] == sum(is_held_out(f"{number:03}.png") for number in range(220))
    assert dict(inspection.kinds) == {"PNG RGB": 220}
    assert dict(inspection.sizes) == {(16, 16): 220}
    assert "Nothing is wrong." in page(inspection, wrong, remarks)
    assert 0 < len(inspection.samples) <= 24


def test_unusable_pictures_beyond_the_stated_share(folder):
    for number in range(3):
        (folder / f"{number:03}.png").write_bytes(b"")
    inspection, wrong, remarks = inspect(folder)
    assert len(wrong) == 1
    assert "3 of 220 pictures cannot be used, more than the share `max_skipped` 0.01" in wrong[0]
    assert "| 3 | the file is empty (0 bytes) |" in page(inspection, wrong, remarks)


def test_a_picture_that_is_held_out_and_trained_on(folder):
    names = [f"{number:03}.png" for number in range(220)]
    held_out, trained = (next(name for name in names if is_held_out(name) == kind) for kind in (True, False))
    (folder / held_out).write_bytes((folder / trained).read_bytes())
    inspection, wrong, _ = inspect(folder)
    assert (inspection.leaked, inspection.copies) == (1, 1)
    assert f"(such as {held_out} as {trained})" in wrong[0]


def test_remarks(folder):
    write(folder, "flat.png", Image.new("RGB", (16, 16), "red"))
    for number in range(3):
        write(folder, f"long{number}.png", noise(40, 16))
        write(folder, f"small{number}.png", noise(8, 8))
    noise().save(folder / "flat.webp")
    first, second = (name for name in ("100.png", "101.png"))
    (folder / second).write_bytes((folder / first).read_bytes())
    inspection, _, remarks = inspect(folder)
    text = "\n".join(remarks)
    assert inspection.copies_of == [("101.png", "100.png")]
    write_copies(inspection, folder / "copies.jsonl")
    assert (folder / "copies.jsonl").read_text() == '{"key": "101.png", "same_as": "100.png"}\n'
    assert "| 101.png | 100.png |" in page(inspection, [], [])
    for said in (
        "1 picture is a copy of another (such as 100.png and 101.png), listed in copies.jsonl",
        "1 picture shares its name with another but for the suffix (such as flat.webp)",
        "1 picture is of nearly one colour (such as flat.png)",
        "3 pictures are more than 2 times as long as wide, and the crop to the middle loses more than half of each; "
        "set `fit` pad",
        "3 pictures are smaller than 16x16 and scaled up",
    ):
        assert said in text


def test_long_captions(folder):
    inspection, _, _ = inspect(folder)
    inspection.lengths.update([3, 3, 70, 80])
    assert any(
        "2 captions are longer than 64 tokens, the longest has 80" in text for text in findings(inspection, SIZE, 64)[1]
    )
    assert "| caption length in tokens: median, 99%, longest | 70, 80, 80 |" in page(inspection, [], [])


def test_tables_of_sizes():
    sizes = Counter({(10, 10): 3, (10, 30): 1, (40, 10): 2, (0, 0): 5})
    assert size_summary(sizes) == {
        "smallest": "10x10", "median": "10x10", "largest": "40x10", "most common": "10x10",
    }  # fmt: skip
    assert aspect_table(sizes) == {"taller than 1:2": 1, "about square": 3, "wider than 2:1": 2}


def test_arrays_are_not_looked_at(tmp_path):
    np.savez(tmp_path / "x.npz", values=np.zeros((3, 1, 8)), captions=["a", "b", "c"])
    with pytest.raises(UserError, match="Only pictures can be inspected"):
        inspect_collection(load_collection(str(tmp_path / "x.npz")), SIZE)


# Files and rows


def test_every_file_of_a_folder_is_accounted_for(folder):
    (folder / "000.txt").unlink()
    (folder / "notes.eps").write_text("%!PS")
    (folder / "README").write_text("x")
    (folder / "._001.png").write_text("x")
    (folder / "__MACOSX").mkdir()
    write(folder / "inner", "named.png", noise())
    write(folder / "inner", "left-out.png", noise())
    (folder / "inner" / "left-out.txt").unlink()
    (folder / "inner" / "metadata.csv").write_text("file_name,caption\nnamed.png,x\ngone.png,y\n")
    inspection, wrong, remarks = inspect(folder)
    assert inspection.files == {
        "pictures with an entry": 221,
        "pictures that no file with captions names, left out": 1,
        "files with captions": 1,
        "texts beside pictures": 220,
        "other files, .eps": 1,
        "other files, without a suffix": 1,
        "hidden files and folders, files of the system": 2,
    }
    text = page(inspection, wrong, remarks)
    assert "447 files in all; 222 rows came of them, of which 220 can be used." in text
    assert "| 1 | it has no caption: there is no .txt of its name beside it |" in text
    assert "| 1 | it is named in the captions and is not in" in text
    assert any("1 pictures are left out" in remark for remark in remarks)
    assert any("not read: 1 .eps" in remark for remark in remarks)


def test_every_file_of_an_archive_is_accounted_for(tmp_path, folder):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for path in sorted(folder.iterdir())[:40]:
            archive.add(path, path.name)
        archive.add(folder / "000.png", "._000.png")
        archive.add(folder / "000.png", "thing.heic")
    inspection = inspect_collection(load_collection(str(tmp_path / "x.tar")), SIZE, num_workers=0)
    assert inspection.files == {
        "archives": 1, "pictures": 20, "other files, .txt": 20, "other files, .heic": 1,
        "hidden files and folders, files of the system": 1,
    }  # fmt: skip
    assert "43 files in all; 21 rows came of them, of which 20 can be used." in page(inspection, [], [])


def test_a_held_out_caption_that_is_trained_on_is_no_new_prompt(folder):
    for number in range(220):
        (folder / f"{number:03}.txt").write_text("a cat")
    inspection, _, remarks = inspect(folder)
    held_out = inspection.num_held_out
    assert inspection.seen_captions == held_out
    assert any(
        f"{held_out} of {held_out} held-out pictures have captions that are also trained on" in r for r in remarks
    )


@pytest.mark.parametrize(("count", "shown"), [(3, 3), (20, 20), (150, 24), (300, 24)])
def test_the_sheet_is_full(tmp_path, count, shown):
    for number in range(count):
        write(tmp_path / "pictures", f"{number:03}.png", noise())
    inspection, _, _ = inspect(tmp_path / "pictures")
    assert len(inspection.samples) == shown
