"""Which rows are taken: filters, words around captions, pictures without captions, several collections as one."""

import io
import tarfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from vqlm.data_prep import CollectionConfig, SequenceConfig, load_collection, load_pictures, prepare
from vqlm.data_prep.batching import RowOrder, weights_of_rows
from vqlm.data_prep.captions.wording import vary_tags
from vqlm.data_prep.sequences import RowCollator
from vqlm.data_prep.sources.rows import Unusable, read_all
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json

SIZES = {"a": (20, 20), "b": (9, 30), "c": (40, 20), "d": (100, 10), "e": (16, 16)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures of several sizes, the captions of one to five words."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (name, size) in enumerate(SIZES.items(), start=1):
        Image.new("RGB", size, (number * 40, 0, 0)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(" ".join("xyzvw"[:number]))
    return folder


def rows_of(data: str | Path, **settings) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Captions by key, and reasons of what is left out."""
    collection = load_collection(str(data), config=CollectionConfig(**settings))
    rows = list(read_all(collection.shards))
    assert all(row.is_left_out for row in rows if isinstance(row, Unusable))
    return (
        {row.key: row.captions for row in rows if not isinstance(row, Unusable)},
        {row.key: row.reason for row in rows if isinstance(row, Unusable)},
    )


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({"min_side": 16}, {"b.png": "`min_side` 16", "d.png": "`min_side` 16"}),
        ({"max_aspect": 2.0}, {"b.png": "`max_aspect` 2", "d.png": "`max_aspect` 2"}),
        ({"min_caption_words": 3}, {"a.png": "at least 3 words", "b.png": "at least 3 words"}),
        ({"max_caption_words": 4}, {"e.png": "0 to 4 words"}),
        ({"min_caption_words": 2, "max_caption_words": 2}, dict.fromkeys(map("{}.png".format, "acde"), "2 to 2")),
        ({"min_side": 10, "max_aspect": 9.9}, {"b.png": "`min_side` 10", "d.png": "`max_aspect` 9.9"}),
    ],
)  # fmt: skip
def test_filters(folder, settings, left_out):
    (folder / "more.txt").write_text("x y")
    Image.new("RGB", (20, 20)).save(folder / "more.png")
    captions, reasons = rows_of(folder, **settings)
    reasons.pop("more.png", None)
    assert reasons.keys() == left_out.keys()
    assert all(said in reasons[key] for key, said in left_out.items())
    assert captions.keys() | reasons.keys() | {"more.png"} == {f"{name}.png" for name in [*SIZES, "more"]}


def test_of_several_captions_those_that_fit_are_kept(folder):
    (folder / "a.txt").write_text("x\nx y\nx y z")
    captions, _ = rows_of(folder, min_caption_words=2, max_caption_words=2)
    assert captions == {"a.png": ("x y",), "b.png": ("x y",)}


def test_what_is_left_out_counts_as_no_fault(folder, tiny_vqvae, tmp_path):
    """Three of six pictures are left out, one cannot be used: 1 of 3 is more than the stated share."""
    (folder / "f.png").write_bytes(b"no picture")
    (folder / "f.txt").write_text("x y z")
    collection = load_collection(str(folder), 16, CollectionConfig(max_aspect=1.5, max_skipped=0.3, held_out="e.*"))
    with pytest.raises(UserError, match="1 of 3 pictures cannot be used"):
        load_pictures(collection, (16, 16))
    collection = load_collection(str(folder), 16, CollectionConfig(max_aspect=1.5, max_skipped=0.5, held_out="e.*"))
    reason = "left out: its sides differ by more than `max_aspect` 1.5"
    assert load_pictures(collection, (16, 16)).skipped.summary() == (
        "1 of 3 pictures skipped, most often (1) because it is not a picture in a format that is read; "
        f"3 pictures {reason}"
    )
    prepared = prepare(collection, tiny_vqvae, tmp_path / "data", "x", num_workers=0)
    assert prepared.manifest["skipped"] == 1
    assert prepared.manifest["left_out"] == {reason: 3}
    assert len((tmp_path / "data" / "skipped.jsonl").read_text().splitlines()) == 4
    assert read_json(tmp_path / "data" / "manifest.json")["splits"].keys() == {"train", "held_out"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_side": -1}, "`min_side` must be at least 0, found -1"),
        ({"max_aspect": 0.5}, "`max_aspect` must be at least 1, found 0.5"),
        ({"max_caption_words": 0}, "`max_caption_words` must be at least 1, found 0"),
        ({"min_caption_words": 5, "max_caption_words": 4}, "`min_caption_words` 5, found 4"),
    ],
)
def test_filters_that_make_no_sense(settings, message):
    with pytest.raises(UserError, match=message):
        CollectionConfig(**settings)


def test_words_around_captions_after_others_were_dropped(folder):
    for name in SIZES:
        (folder / f"{name}.txt").write_text(f"a picture of {name}")
    captions, _ = rows_of(folder, drop_prefix="a picture of", add_prefix="sks,  ", add_suffix=", flat")
    assert captions == {f"{name}.png": (f"sks, {name}, flat",) for name in SIZES}


def test_settings_of_later_versions_change_no_fingerprint(folder):
    fingerprints = {
        load_collection(str(folder), config=CollectionConfig(**settings)).fingerprint()
        for settings in ({}, {"min_side": 1}, {"add_prefix": "x"}, {"max_aspect": 50.0})
    }
    assert len(fingerprints) == 4


CHANGED = {
    "class_template": "a {}", "captions_from": "names", "caption_lines": "first", "image_column": "a",
    "caption_column": "b", "background": "red", "fit": "pad", "max_pixels": 100, "held_out": 0.5,
    "allow_outside_files": True, "drop_prefix": "a", "drop_copies": True, "min_side": 1, "max_aspect": 50.0,
    "min_caption_words": 1, "max_caption_words": 9, "add_prefix": "x", "add_suffix": "y",
}  # fmt: skip


def test_every_setting_that_decides_rows_or_pixels_is_compared_on_resume(folder):
    assert {field.name for field in fields(CollectionConfig)} == {*CHANGED, "max_skipped"}
    collection = load_collection(str(folder))
    prints = {
        name: replace(collection, config=CollectionConfig(**{name: value})).fingerprint()
        for name, value in CHANGED.items()
        if name != "held_out"
    }
    prints["held_out"] = load_collection(str(folder), config=CollectionConfig(held_out=0.5)).fingerprint()
    assert len({collection.fingerprint(), *prints.values()}) == len(CHANGED) + 1
    lenient = replace(collection, config=CollectionConfig(max_skipped=0.5))
    assert lenient.fingerprint() == collection.fingerprint()


# Pictures alone


def bare_folder(tmp_path: Path) -> str:
    for number in range(4):
        Image.new("RGB", (16, 16), (number * 60, 0, 0)).save(tmp_path / f"{number}.png")
    return str(tmp_path)


def bare_tar(tmp_path: Path) -> str:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for number in range(4):
            content = png(number)
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(tmp_path / "x.tar")


def bare_table(tmp_path: Path) -> str:
    table = pyarrow.table({"image": [png(number) for number in range(4)]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    return str(tmp_path / "x.parquet")


def bare_arrays(tmp_path: Path) -> str:
    np.savez(tmp_path / "x.npz", values=(np.arange(4 * 3 * 256) % 256).astype(np.uint8).reshape(4, 3, 16, 16))
    return str(tmp_path / "x.npz")


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (number * 60, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("write", [bare_folder, bare_tar, bare_table, bare_arrays])
def test_pictures_without_captions(tmp_path, write):
    data = write(tmp_path)
    collection = load_collection(data, 16, needs_captions=False)
    rows = list(collection.rows())
    assert [row.captions for row in rows] == [("",)] * 4
    pictures = load_pictures(collection, (16, 16))
    assert len(pictures.train) + len(pictures.held_out) == 4
    with pytest.raises(UserError, match="caption"):
        load_collection(data, 16)


def test_pictures_with_and_without_captions(folder):
    (folder / "b.txt").unlink()
    (folder / "c.txt").write_bytes(b"\xff")
    rows = {row.key: row.captions for row in load_collection(str(folder), needs_captions=False).rows()}
    assert rows == {
        "a.png": ("x",), "b.png": ("",), "c.png": ("",), "d.png": ("x y z v",), "e.png": ("x y z v w",),
    }  # fmt: skip


# Several collections


def test_two_folders_as_one(folder, tmp_path):
    other = tmp_path / "more"
    (other / "train").mkdir(parents=True)
    (other / "test").mkdir()
    for number in range(3):
        for split in ("train", "test"):
            Image.new("RGB", (16, 16), (0, number * 90, 0)).save(other / split / f"{number}.png")
            (other / split / f"{number}.txt").write_text(f"{split} {number}")
    (other / "NOTICE").write_text("Drawn by hand.")
    collection = load_collection(f"{folder}/ + {other}")
    assert collection.attribution == "Drawn by hand."
    keys = [row.key for row in collection.rows()]
    assert set(keys) == {f"pictures/{name}.png" for name in SIZES} | {
        f"more/{split}/{number}.png" for split in ("train", "test") for number in range(3)
    }
    assert collection.split_names == ["train", "held_out", "test"]
    assert {key for key in keys if collection.split_of(key) == "test"} == {f"more/test/{n}.png" for n in range(3)}
    alone = load_collection(str(folder))
    assert all(collection.split_of(f"pictures/{row.key}") == alone.split_of(row.key) for row in alone.rows())
    assert collection.count_files()["pictures with an entry"] == 11
    assert collection.fingerprint() == load_collection(f"{folder} + {other}/").fingerprint()


def test_two_folders_of_one_name(folder, tmp_path):
    other = tmp_path / "x" / "pictures"
    other.mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (16, 16)).save(other / f"{name}.png")
        (other / f"{name}.txt").write_text(name)
    keys = {row.key for row in load_collection(f"{folder} + {other}").rows()}
    assert keys == {f"pictures/{name}.png" for name in SIZES} | {"pictures (2)/a.png", "pictures (2)/b.png"}


def test_a_folder_with_a_plus_in_its_name(folder):
    renamed = folder.with_name("cats + dogs")
    folder.rename(renamed)
    assert [row.key for row in load_collection(str(renamed)).rows()] == [f"{name}.png" for name in SIZES]


# How often rows come


def test_weights_by_hand(folder, tiny_vqvae, tmp_path):
    (folder / "inner").mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16), (0, 0, number * 60)).save(folder / "inner" / f"{number}.png")
        (folder / "inner" / f"{number}.txt").write_text("z")
    collection = load_collection(str(folder), 16, CollectionConfig(held_out="e.png*"))
    rows = prepare(collection, tiny_vqvae, tmp_path / "data", "x", num_workers=0).train
    weights = weights_of_rows(rows, {"a.*": 0.0, "inner/*": 2.5})
    assert dict(zip(rows["key"], weights.tolist(), strict=True)) == {
        "a.png": 0, "b.png": 1, "c.png": 1, "d.png": 1, **{f"inner/{number}.png": 2.5 for number in range(4)},
    }  # fmt: skip
    order = RowOrder(len(rows), 3, weights=weights)
    counts = np.zeros(len(rows))
    for epoch in range(200):
        order.set_epoch(epoch)
        shown = np.bincount(np.concatenate(list(order.windows(3))), minlength=len(rows))
        assert set(shown[weights == 2.5]) <= {2, 3}
        counts += shown
    assert counts[weights == 0].tolist() == [0]
    assert counts[weights == 1].tolist() == [200] * 3
    assert counts[weights == 2.5] == pytest.approx([500] * 4, abs=30)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"*": -1.0}, r"must not be negative, found -1.0 for \*"),
        ({"*": 0.0}, "are 0 for every row"),
        ({"nothing/*": 2.0}, "'nothing/\\*', which no training row's key matches"),
    ],
)
def test_weights_that_make_no_sense(folder, tiny_vqvae, tmp_path, weights, message):
    rows = prepare(load_collection(str(folder), 16), tiny_vqvae, tmp_path / "data", "x", num_workers=0).train
    with pytest.raises(UserError, match=message):
        weights_of_rows(rows, weights)


# Tags


def test_tags_are_shuffled_behind_those_that_stay():
    seen = {vary_tags("sks,a ,, b, c", 1, 0.0, True) for _ in range(200)}
    assert seen == {f"sks, {x}, {y}, {z}" for x, y, z in ("abc", "acb", "bac", "bca", "cab", "cba")}


def test_tags_are_left_out_by_their_share():
    counts = np.zeros(4)
    for _ in range(400):
        kept = vary_tags("a, b, c, d", 1, 0.25, False).split(", ")
        assert kept == sorted(kept)
        counts += [tag in kept for tag in "abcd"]
    assert counts[0] == 400
    assert counts[1:] == pytest.approx([300] * 3, abs=40)
    assert vary_tags("a, b", 0, 1.0, False) == "a"


def test_held_out_rows_have_the_tags_as_written(byte_vocabulary):
    """Training rows hold other orders of the ids, held-out rows always the same."""
    pack = [[{"caption": "a, b, c", "codes": np.zeros(1, dtype=np.int64)}]]
    settings = {"caption_dropout": 0.0, "code_noise": 0.0}
    training = RowCollator(byte_vocabulary, 64, SequenceConfig(shuffle_tags=True, keep_tags=1, **settings))
    held_out = RowCollator(byte_vocabulary, 64, None)
    texts = {tuple(training(pack).input_ids[0].tolist()) for _ in range(50)}
    written = tuple(held_out(pack).input_ids[0].tolist())
    assert {byte_vocabulary.decode_text(list(ids)) for ids in texts} == {"a, b, c", "a, c, b"}
    assert written in texts
    assert all(torch.equal(held_out(pack).input_ids, torch.tensor([written])) for _ in range(5))


def test_settings_of_tags():
    with pytest.raises(UserError, match="`keep_tags` has no effect without"):
        SequenceConfig(keep_tags=2)
    with pytest.raises(UserError, match=r"`tag_dropout` must lie in \[0, 1\]"):
        SequenceConfig(tag_dropout=1.5)
