"""What an inspection finds in a collection, and what it says of it."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from vqlm.data_prep import load_collection
from vqlm.data_prep.inspection import aspect_table, findings, inspect_collection, page, size_summary
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
    found = inspect_collection(load_collection(str(folder)), SIZE, num_workers=0)
    return found, *findings(found, SIZE, max_caption_tokens)


def test_nothing_wrong(folder):
    found, wrong, remarks = inspect(folder)
    assert (wrong, remarks) == ([], [])
    assert found.usable == found.num_captions == 220
    assert found.splits["held_out"] == sum(is_held_out(f"{number:03}.png") for number in range(220))
    assert dict(found.kinds) == {"PNG RGB": 220}
    assert dict(found.sizes) == {(16, 16): 220}
    assert "Nothing is wrong." in page(found, wrong, remarks)
    assert 0 < len(found.samples) <= 24


def test_unusable_pictures_beyond_the_stated_share(folder):
    for number in range(3):
        (folder / f"{number:03}.png").write_bytes(b"")
    found, wrong, remarks = inspect(folder)
    assert len(wrong) == 1
    assert "3 of 220 pictures cannot be used, more than the share `max_skipped` 0.01" in wrong[0]
    assert "| 3 | the file is empty (0 bytes) |" in page(found, wrong, remarks)


def test_a_picture_that_is_held_out_and_trained_on(folder):
    names = [f"{number:03}.png" for number in range(220)]
    held_out, trained = (next(name for name in names if is_held_out(name) == kind) for kind in (True, False))
    (folder / held_out).write_bytes((folder / trained).read_bytes())
    found, wrong, _ = inspect(folder)
    assert (found.leaked, found.copies) == (1, 1)
    assert f"(such as {held_out} as {trained})" in wrong[0]


def test_remarks(folder):
    write(folder, "flat.png", Image.new("RGB", (16, 16), "red"))
    for number in range(3):
        write(folder, f"long{number}.png", noise(40, 16))
        write(folder, f"small{number}.png", noise(8, 8))
    noise().save(folder / "flat.webp")
    first, second = (name for name in ("100.png", "101.png"))
    (folder / second).write_bytes((folder / first).read_bytes())
    found, _, remarks = inspect(folder)
    text = "\n".join(remarks)
    for said in (
        "1 pictures are copies of another (such as 100.png and 101.png)",
        "1 pictures share their name with another but for the suffix (such as flat.webp)",
        "1 pictures are of nearly one colour (such as flat.png)",
        "3 pictures are more than 2 times as long as wide",
        "3 pictures are smaller than 16x16 and are scaled up",
    ):
        assert said in text


def test_long_captions(folder):
    found, _, _ = inspect(folder)
    found.lengths.update([3, 3, 70, 80])
    assert any(
        "2 captions are longer than 64 tokens, the longest has 80" in text for text in findings(found, SIZE, 64)[1]
    )
    assert "| caption length in tokens: median, 99%, longest | 70, 80, 80 |" in page(found, [], [])


def test_tables_of_sizes():
    found = Counter({(10, 10): 3, (10, 30): 1, (40, 10): 2, (0, 0): 5})
    assert size_summary(found) == {
        "smallest": "10x10", "median": "10x10", "largest": "40x10", "most common": "10x10",
    }  # fmt: skip
    assert aspect_table(found) == {"taller than 1:2": 1, "about square": 3, "wider than 2:1": 2}


def test_arrays_are_not_looked_at(tmp_path):
    np.savez(tmp_path / "x.npz", values=np.zeros((3, 1, 8)), captions=["a", "b", "c"])
    with pytest.raises(UserError, match="Only pictures can be inspected"):
        inspect_collection(load_collection(str(tmp_path / "x.npz")), SIZE)
