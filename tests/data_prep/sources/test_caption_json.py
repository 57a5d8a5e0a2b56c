"""The two forms in which most captioned photographs come: COCO's files, and those of Karpathy's splits."""

import json
from pathlib import Path

import pytest
from PIL import Image

from vqlm.data_prep import CollectionConfig, load_collection
from vqlm.data_prep.collections.inspection import findings, inspect_collection
from vqlm.data_prep.collections.inspection_page import page
from vqlm.training.errors import UserError


def draw(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 40 % 256, 0, 0)).save(folder / name)


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def coco(names: dict[int, str], captions: list[tuple[int, str]]) -> dict:
    return {
        "info": {}, "licenses": [],
        "images": [{"id": id, "file_name": name, "height": 8, "width": 8} for id, name in names.items()],
        "annotations": [
            {"id": number, "image_id": id, "caption": text} for number, (id, text) in enumerate(captions)
        ],
    }  # fmt: skip


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """COCO as it is unpacked: three training and two validation pictures, test pictures without captions."""
    folder = tmp_path / "coco"
    draw(
        folder,
        "train2017/1.jpg",
        "train2017/2.jpg",
        "train2017/3.jpg",
        "val2017/4.jpg",
        "val2017/5.jpg",
        "test2017/6.jpg",
    )
    train = coco({1: "1.jpg", 2: "2.jpg", 3: "3.jpg"}, [(1, "a cat"), (2, "a dog"), (1, "One  cat.\n"), (3, "an owl")])
    write(folder / "annotations" / "captions_train2017.json", train)
    write(
        folder / "annotations" / "captions_val2017.json", coco({4: "4.jpg", 5: "5.jpg"}, [(5, "a bus"), (4, "a car")])
    )
    write(folder / "annotations" / "instances_val2017.json", {"images": [], "annotations": [{"bbox": []}]})
    return folder


def described(folder: Path, **settings) -> dict[str, tuple[str, tuple[str, ...]]]:
    collection = load_collection(str(folder), config=CollectionConfig(**settings))
    return {row.key: (collection.split_of(row.key), row.captions) for row in collection.rows()}


def test_coco_with_its_splits(photographs):
    assert described(photographs) == {
        "train2017/1.jpg": ("train", ("a cat", "One cat.")),
        "train2017/2.jpg": ("train", ("a dog",)),
        "train2017/3.jpg": ("train", ("an owl",)),
        "val2017/4.jpg": ("validation", ("a car",)),
        "val2017/5.jpg": ("validation", ("a bus",)),
    }
    collection = load_collection(str(photographs))
    assert collection.held_out_names == ("validation",)
    inspection = inspect_collection(collection, (8, 8), num_workers=0)
    assert inspection.files == {
        "pictures with an entry": 5, "pictures that no file with captions names, left out": 1,
        "files with captions": 2, "texts beside pictures": 0, "other files, .json": 1,
    }  # fmt: skip
    assert "9 files in all; 5 rows came of them, of which 5 can be used." in page(
        inspection, *findings(inspection, (8, 8), 64)
    )


def test_only_the_validation_pictures_are_here(photographs):
    for path in (photographs / "train2017").iterdir():
        path.unlink()
    assert set(described(photographs)) == {"val2017/4.jpg", "val2017/5.jpg"}
    kinds = load_collection(str(photographs)).count_files()
    assert kinds["files with captions of pictures that are not here"] == 1


def test_what_a_coco_file_lacks_is_said(photographs):
    content = coco({4: "4.jpg", 5: "5.jpg", 7: "gone.jpg"}, [(4, "a car"), (7, "x"), (8, "of nothing")])
    content["images"].append({"id": 9})
    write(photographs / "annotations" / "captions_val2017.json", content)
    collection = load_collection(str(photographs))
    reasons = {row.key: row.reason for shard in collection.shards for row in shard.read() if hasattr(row, "reason")}
    table = "annotations/captions_val2017.json"
    assert reasons == {
        "val2017/5.jpg": f"{table} has no caption of it",
        f"{table}, gone.jpg": f"it is named in {table} and is not in the folder, or several pictures have its name",
        f"{table}, annotation 3": "its image_id 8 is that of no image of the file",
        f"{table}, image 4": "it has no file_name or no id",
    }


def test_pictures_of_one_name_are_told_apart_by_their_split(tmp_path):
    draw(tmp_path, "train/1.jpg", "train/2.jpg", "val/1.jpg")
    write(tmp_path / "captions_train.json", coco({1: "1.jpg", 2: "2.jpg"}, [(1, "a"), (2, "b")]))
    write(tmp_path / "captions_val.json", coco({1: "1.jpg"}, [(1, "c")]))
    assert described(tmp_path) == {
        "train/1.jpg": ("train", ("a",)), "train/2.jpg": ("train", ("b",)), "val/1.jpg": ("validation", ("c",)),
    }  # fmt: skip


def karpathy(*rows: tuple[str, str, list[str]], folder: str | None = None) -> dict:
    images = [
        {"filename": name, "split": split, "imgid": number, "sentences": [{"raw": text} for text in texts]}
        | ({"filepath": folder} if folder else {})
        for number, (name, split, texts) in enumerate(rows)
    ]  # fmt: skip
    return {"images": images, "dataset": "flickr8k"}


@pytest.mark.parametrize("name", ["dataset_flickr8k.json", "dataset.json"])
def test_karpathys_splits(tmp_path, name):
    draw(tmp_path, *(f"Images/{number}.jpg" for number in range(1, 6)))
    write(tmp_path / name, karpathy(
        ("1.jpg", "train", ["a cat .", "one cat"]), ("2.jpg", "restval", ["a dog"]), ("3.jpg", "val", ["an owl"]),
        ("4.jpg", "test", ["a bus"]), ("5.jpg", "other", ["a car"]),
    ))  # fmt: skip
    assert described(tmp_path) == {
        "Images/1.jpg": ("train", ("a cat .", "one cat")),
        "Images/2.jpg": ("train", ("a dog",)),
        "Images/3.jpg": ("validation", ("an owl",)),
        "Images/4.jpg": ("test", ("a bus",)),
    }
    reasons = [row.reason for shard in load_collection(str(tmp_path)).shards for row in shard.read()
               if hasattr(row, "reason")]  # fmt: skip
    assert reasons == ["its split 'other' is none of train, restval, val, test"]
    assert {key for key, (split, _) in described(tmp_path, held_out="test").items() if split == "test"} == {
        "Images/4.jpg"
    }


def test_karpathys_splits_of_coco_stand_before_those_of_its_own_files(tmp_path):
    draw(tmp_path, "train2014/1.jpg", "val2014/2.jpg", "val2014/3.jpg")
    write(tmp_path / "annotations" / "captions_val2014.json", coco({2: "2.jpg", 3: "3.jpg"}, [(2, "a"), (3, "b")]))
    write(tmp_path / "annotations" / "captions_train2014.json", coco({1: "1.jpg"}, [(1, "c")]))
    one = karpathy(("1.jpg", "train", ["c"]), folder="train2014")
    others = karpathy(("2.jpg", "restval", ["a"]), ("3.jpg", "test", ["b"]), folder="val2014")
    write(tmp_path / "dataset_coco.json", {"images": one["images"] + others["images"], "dataset": "coco"})
    assert described(tmp_path) == {
        "train2014/1.jpg": ("train", ("c",)), "val2014/2.jpg": ("train", ("a",)), "val2014/3.jpg": ("test", ("b",)),
    }  # fmt: skip
    assert load_collection(str(tmp_path)).count_files()["files with captions, not read beside dataset_*.json"] == 2


@pytest.mark.parametrize("content", ['{"images": [{"id": 1', "", "[" * 100_000])
def test_a_broken_file_of_captions(photographs, content):
    (photographs / "annotations" / "captions_val2017.json").write_text(content)
    with pytest.raises(UserError, match=r"captions_val2017.json is not JSON \(.*; copy or unpack it again"):
        load_collection(str(photographs))


def test_other_json_of_such_a_name_is_no_data(tmp_path):
    draw(tmp_path, "a.png", "b.png")
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    write(tmp_path / "dataset_info.json", {"features": {}})
    (tmp_path / "dataset_x.json").write_text("no JSON")
    assert set(described(tmp_path)) == {"a.png", "b.png"}


def test_the_split_is_part_of_what_a_collection_is(tmp_path):
    draw(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    fingerprints = set()
    for held_out in ("val", "test"):
        write(tmp_path / "dataset.json", karpathy(("1.jpg", "train", ["c"]), ("2.jpg", held_out, ["a"])))
        fingerprints.add(load_collection(str(tmp_path)).fingerprint())
    assert len(fingerprints) == 2
