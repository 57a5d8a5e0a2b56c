"""A folder of captioned pictures: the three places of captions, the split, each error."""

import json
from pathlib import Path

import pytest
from data_prep.folder import load_folder, read_captions
from PIL import Image

from data_prep import load_collection
from data_prep.splits import hash_share, is_held_out
from training.errors import UserError

NAMES = [f"{number:02}.png" for number in range(30)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, a.png and b.png, without captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw(folder, ["a.png", "b.png"])
    return folder


def draw(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(folder / name)


def write_csv(folder: Path, *lines: str) -> None:
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_jsonl(folder: Path, *rows: object) -> None:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


# Where captions are written


@pytest.mark.parametrize("column", ["caption", "text"])
def test_captions_of_a_csv(folder, column):
    write_csv(folder, f"file_name,{column}", 'b.png,"a red, round  thing"', "a.png,blå ♥")
    captions = read_captions(folder)
    assert captions == {"a.png": "blå ♥", "b.png": "a red, round thing"}
    assert list(captions) == ["a.png", "b.png"]


def test_a_csv_as_excel_writes_it(folder):
    text = "file_name,caption\r\na.png,one\r\nb.png,two\r\n"
    (folder / "metadata.csv").write_text(text, encoding="utf-8-sig", newline="")
    assert read_captions(folder) == {"a.png": "one", "b.png": "two"}


@pytest.mark.parametrize("column", ["caption", "text"])
def test_captions_of_a_jsonl(folder, column):
    write_jsonl(folder, {"file_name": "b.png", column: "two"}, {"file_name": "a.png", column: "blå ♥"})
    assert read_captions(folder) == {"a.png": "blå ♥", "b.png": "two"}


def test_captions_of_the_same_stem(folder):
    draw(folder, ["deep/C.JPG"])
    for stem, caption in {"a": " one\n", "b": "two", "deep/C": "three"}.items():
        (folder / f"{stem}.txt").write_text(caption, encoding="utf-8")
    assert read_captions(folder) == {"a.png": "one", "b.png": "two", "deep/C.JPG": "three"}


def test_rows_hold_picture_caption_and_key(folder):
    write_csv(folder, "file_name,caption", "a.png,one", "b.png,two")
    Image.new("RGB", (2, 2), "red").save(folder / "a.png")
    rows = {row["key"]: row for split in load_folder(folder).values() for row in split}
    assert rows["a.png"]["caption"] == "one"
    assert rows["a.png"]["image"].getpixel((0, 0)) == (255, 0, 0)
    assert rows.keys() == {"a.png", "b.png"}


# The split


def keys_of(folder: Path) -> dict[str, list[str]]:
    return {name: split["key"][:] for name, split in load_folder(folder).items()}


def test_the_hash_of_the_name_splits(tmp_path):
    draw(tmp_path, NAMES)
    write_csv(tmp_path, "file_name,caption", *(f"{name},thing" for name in NAMES))
    held_out = [name for name in NAMES if is_held_out(name)]
    assert 0 < len(held_out) < len(NAMES)
    assert keys_of(tmp_path) == {"train": [name for name in NAMES if name not in held_out], "held_out": held_out}


def test_the_order_of_rows_does_not_move_pictures(tmp_path):
    draw(tmp_path, NAMES)
    write_csv(tmp_path, "file_name,caption", *(f"{name},thing" for name in NAMES))
    before = keys_of(tmp_path)
    write_csv(tmp_path, "file_name,caption", *(f"{name},thing" for name in reversed(NAMES)))
    assert keys_of(tmp_path) == before


def test_at_least_one_picture_is_held_out(folder):
    write_csv(folder, "file_name,caption", "a.png,one", "b.png,two")
    least, other = sorted(["a.png", "b.png"], key=hash_share)
    assert hash_share(least) >= 0.1
    assert keys_of(folder) == {"train": [other], "held_out": [least]}


def test_at_least_one_picture_is_trained_on(tmp_path):
    names = [name for name in (f"{number}.png" for number in range(100)) if is_held_out(name)][:2]
    draw(tmp_path, names)
    write_csv(tmp_path, "file_name,caption", *(f"{name},thing" for name in names))
    assert {split: len(keys) for split, keys in keys_of(tmp_path).items()} == {"train": 1, "held_out": 1}


# Errors


def test_no_captions(folder):
    (folder / "a.txt").write_text("one")
    with pytest.raises(UserError, match=r"1 of 2 pictures without a caption, b\.png first; write metadata\.csv"):
        load_folder(folder)


@pytest.mark.parametrize("text", ["", "  \n "])
def test_an_empty_caption_beside_a_picture(folder, text):
    (folder / "a.txt").write_text("one")
    (folder / "b.txt").write_text(text)
    with pytest.raises(UserError, match=r"caption of b\.png is empty"):
        load_folder(folder)


def test_an_empty_caption_in_a_csv(folder):
    write_csv(folder, "file_name,caption", "a.png,one", "b.png,")
    with pytest.raises(UserError, match=r"caption of b\.png is empty"):
        load_folder(folder)


@pytest.mark.parametrize("row", [{"file_name": "b.png"}, {"file_name": "b.png", "caption": None}])
def test_a_jsonl_row_without_caption(folder, row):
    write_jsonl(folder, {"file_name": "a.png", "caption": "one"}, row)
    with pytest.raises(UserError, match=r"caption of b\.png is empty"):
        load_folder(folder)


def test_a_caption_that_is_no_text(folder):
    write_jsonl(folder, {"file_name": "a.png", "caption": "one"}, {"file_name": "b.png", "caption": 7})
    with pytest.raises(UserError, match=r"b\.png"):
        load_folder(folder)


def test_a_missing_picture(folder):
    write_csv(folder, "file_name,caption", "a.png,one", "gone.png,two")
    with pytest.raises(UserError, match=r"names the picture 'gone\.png', which is not in"):
        load_folder(folder)


def test_a_picture_named_twice(folder):
    write_csv(folder, "file_name,caption", "a.png,one", "b.png,two", "a.png,three")
    with pytest.raises(UserError, match=r"a\.png"):
        load_folder(folder)


def test_a_caption_with_a_bare_comma(folder):
    write_csv(folder, "file_name,caption", "a.png,a cat, asleep", "b.png,two")
    with pytest.raises(UserError, match="too many commas; put its caption in double quotes"):
        load_folder(folder)


def test_wrong_columns_are_named(folder):
    write_csv(folder, "file_name,title", "a.png,one", "b.png,two")
    with pytest.raises(UserError, match="columns file_name and caption, found file_name, title"):
        load_folder(folder)


def test_a_csv_without_rows(folder):
    write_csv(folder, "file_name,caption")
    with pytest.raises(UserError, match=r"metadata\.csv holds no rows"):
        load_folder(folder)


def test_a_csv_that_is_not_utf8(folder):
    (folder / "metadata.csv").write_bytes("file_name,caption\na.png,blå\nb.png,two\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"metadata\.csv.*UTF-8"):
        load_folder(folder)


def test_a_broken_line(folder):
    write_jsonl(folder, {"file_name": "a.png", "caption": "one"}, '{"file_name": "b.png", ')
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 2 is not JSON"):
        load_folder(folder)


@pytest.mark.parametrize("line", ["7", '["b.png", "two"]', '"b.png"'])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_line_that_is_no_object(folder, line, is_first):
    good = {"file_name": "a.png", "caption": "one"}
    write_jsonl(folder, *((line, good) if is_first else (good, line)))
    with pytest.raises(UserError, match=r"metadata\.jsonl"):
        load_folder(folder)


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="holds no pictures"):
        load_folder(tmp_path)


def test_one_picture_only(folder):
    write_csv(folder, "file_name,caption", "a.png,one")
    with pytest.raises(UserError, match="holds 1 captioned picture; at least 2"):
        load_folder(folder)


@pytest.mark.parametrize("name", ["nowhere", "file.txt"])
def test_neither_openmoji_nor_a_folder(tmp_path, name):
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(
        UserError,
        match=f"must be openmoji, a folder of captioned pictures, or an .npz of arrays; .*{name}.* is none of them",
    ):
        load_collection(str(tmp_path / name), 16)
