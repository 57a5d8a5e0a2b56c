"""The splits that a collection comes with, and the setting that says what is held out."""

import io
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from vqlm.data_prep import CollectionConfig, load_collection, load_pictures
from vqlm.data_prep.splits import hash_share
from vqlm.training.errors import UserError


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


def write_pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png())
        (folder / name).with_suffix(".txt").write_text(f"a {name}")
    return folder


def write_tar(path: Path, *stems: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for stem in stems:
            for suffix, content in ((".png", png()), (".txt", b"a thing")):
                member = tarfile.TarInfo(stem + suffix)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def splits_of(data: object, held_out: float | str | None = None) -> dict[str, list[str]]:
    collection = load_collection(str(data), config=CollectionConfig(held_out=held_out))
    return {split: [row.key for row in collection.rows(split)] for split in collection.split_names}


def test_folders_of_an_imagefolder(tmp_path):
    write_pictures(tmp_path, "train/a/1.png", "train/2.png", "val/a/1.png", "test/1.png", "more/1.png")
    assert splits_of(tmp_path) == {
        "train": ["more/1.png", "train/2.png", "train/a/1.png"],
        "test": ["test/1.png"],
        "validation": ["val/a/1.png"],
    }
    loaded = load_pictures(load_collection(str(tmp_path)), (4, 4))
    assert (len(loaded.train), len(loaded.held_out)) == (3, 2)


@pytest.mark.parametrize("count", [3, 300])
def test_the_same_with_classes(tmp_path, count):
    for number in range(count):
        write_pictures(tmp_path, f"Train/cat/{number:03}.png", f"Test/cat/{number:03}.png")
    collection = load_collection(str(tmp_path), config=CollectionConfig(class_template="a {}"))
    for split in ("train", "test"):
        rows = list(collection.rows(split))
        assert [row.key for row in rows] == [f"{split.title()}/cat/{number:03}.png" for number in range(count)]
        assert {row.captions for row in rows} == {("a cat",)}


@pytest.mark.parametrize(
    ("train", "held_out", "split"),
    [
        ("images/train", "images/val", "validation"),
        ("a/b/Train", "a/b/TEST", "test"),
        ("train2017", "val2017", "validation"),
        ("training_01", "dev-1", "validation"),
    ],
)
def test_folders_of_splits_under_others_and_with_numbers(tmp_path, train, held_out, split):
    write_pictures(tmp_path, f"{train}/1.png", f"{train}/deep/2.png", f"{held_out}/1.png", f"{held_out}/deep/2.png")
    assert splits_of(tmp_path) == {
        "train": [f"{train}/1.png", f"{train}/deep/2.png"],
        split: [f"{held_out}/1.png", f"{held_out}/deep/2.png"],
    }


def test_folders_of_splits_below_classes(tmp_path):
    write_pictures(tmp_path, "cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/good/1.png", "0.png")
    assert splits_of(tmp_path) == {
        "train": ["0.png", "cat/train/1.png", "dog/train/1.png"],
        "test": ["cat/test/1.png", "dog/test/good/1.png"],
    }


def test_a_class_that_is_called_train(tmp_path):
    write_pictures(tmp_path, "train/1.png", "train/2.png", "plane/1.png", "plane/2.png")
    splits = splits_of(tmp_path)
    assert list(splits) == ["train", "held_out"]
    assert len(splits["held_out"]) == 1


@pytest.mark.parametrize(
    ("train", "held_out", "key"),
    [
        ("train-000000.tar", "val-000000.tar", "val-000000.tar/0"),
        ("shard_train_0.tar", "shard_validation_0.tar", "shard_validation_0.tar/0"),
        ("train/0.tar", "valid/0.tar", "valid/0.tar/0"),
        ("train/0.tar", "dev/1.tar", "1.tar/0"),
    ],
)
def test_archives_of_splits(tmp_path, train, held_out, key):
    write_tar(tmp_path / train, "0", "1")
    write_tar(tmp_path / held_out, "0")
    splits = splits_of(tmp_path)
    assert len(splits["train"]) == 2
    assert splits["validation"] == [key]


def test_tables_of_splits(tmp_path):
    (tmp_path / "data").mkdir()
    for name, count in (("train-00000-of-00002", 3), ("train-00001-of-00002", 3), ("test-00000-of-00001", 2)):
        table = pyarrow.table({"image": [png()] * count, "caption": ["a thing"] * count})
        pyarrow.parquet.write_table(table, tmp_path / "data" / f"{name}.parquet")
    for data in (tmp_path, tmp_path / "data", tmp_path / "data" / "*.parquet"):
        splits = splits_of(data)
        assert len(splits["train"]) == 6
        assert splits["test"] == ["test-00000-of-00001.parquet/0", "test-00000-of-00001.parquet/1"]


def test_one_split_alone_is_split_by_the_hash(tmp_path):
    write_tar(tmp_path / "train-0.tar", *(str(number) for number in range(20)))
    assert list(splits_of(tmp_path)) == ["train", "held_out"]


# The setting


@pytest.fixture
def folder(tmp_path) -> Path:
    names = [f"{place}/{number:02}.png" for place in ("train", "val", "test") for number in range(10)]
    return write_pictures(tmp_path / "pictures", *names)


@pytest.mark.parametrize("share", [0.5, "0.5"])
def test_a_share(folder, share):
    splits = splits_of(folder, share)
    assert list(splits) == ["train", "held_out"]
    assert all(hash_share(key) < 0.5 for key in splits["held_out"])
    assert all(hash_share(key) >= 0.5 for key in splits["train"])


@pytest.mark.parametrize("name", ["validation", "val"])
def test_the_name_of_a_split(folder, name):
    splits = splits_of(folder, name)
    assert splits["validation"] == [f"val/{number:02}.png" for number in range(10)]
    assert len(splits["train"]) == 20


def test_a_pattern(folder):
    assert splits_of(folder, "*/00.png")["held_out"] == ["test/00.png", "train/00.png", "val/00.png"]


def test_a_file_of_keys(folder, tmp_path):
    (tmp_path / "keys.txt").write_text("train/03.png\r\n\ntest/01.png\n", encoding="utf-8-sig", newline="")
    held_out = str(tmp_path / "keys.txt")
    assert splits_of(folder, held_out)["held_out"] == ["test/01.png", "train/03.png"]

    def fingerprint() -> str:
        return load_collection(str(folder), config=CollectionConfig(held_out=held_out)).fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    (tmp_path / "keys.txt").write_text("train/03.png\n")
    assert fingerprint() != before


@pytest.mark.parametrize(
    ("held_out", "said"),
    [
        (0.0, "`held_out` as a share must lie between 0 and 1, found 0.0"),
        ("1.5", "must lie between 0 and 1, found 1.5"),
        ("other", "its splits are test, train, validation.* found 'other'"),
        ("x/*", "`held_out` holds out none of the 30 pictures, whose keys are such as test/00.png"),
        ("*", "`held_out` holds out all of the 30 pictures"),
    ],
)
def test_settings_that_hold_out_nothing(folder, held_out, said):
    with pytest.raises(UserError, match=said):
        splits_of(folder, held_out)


def test_keys_of_no_picture(folder, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no keys; write one key per line"):
        splits_of(folder, str(tmp_path / "empty.txt"))
