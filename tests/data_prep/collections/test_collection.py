"""A collection: its splits, its rows through `datasets`, pictures in memory, what is skipped."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image

from vqlm.data_prep import Collection, CollectionConfig, load_collection, load_pictures
from vqlm.data_prep.collections.picture_loading import in_order, quotas
from vqlm.data_prep.sources.rows import MAX_SHARDS, Row, Shard, Unusable, join_shards, rows_per_shard
from vqlm.data_prep.splits import hash_share, is_held_out
from vqlm.training.errors import UserError

NAMES = [f"{number:03}.png" for number in range(300)]


@pytest.fixture
def draw(tmp_path: Path):
    """draw(names): a folder of such pictures, each of a grey of its own, with captions."""

    def make(names: list[str]) -> Path:
        lines = ["file_name,caption"]
        for number, name in enumerate(names):
            Image.new("RGB", (2, 2), (number % 256,) * 3).save(tmp_path / name)
            lines.append(f"{name},thing {number}")
        (tmp_path / "metadata.csv").write_text("\n".join(lines))
        return tmp_path

    return make


def keys_of(folder: Path, split: str) -> list[str]:
    return [row.key for row in load_collection(str(folder)).rows(split)]


# Splits


@pytest.mark.parametrize("count", [30, 300])  # few, and more than are looked at beforehand
def test_the_hash_of_the_name_splits(draw, count):
    folder, names = draw(NAMES[:count]), NAMES[:count]
    held_out = [name for name in names if is_held_out(name)]
    assert 0 < len(held_out) < count
    assert keys_of(folder, "held_out") == held_out
    assert keys_of(folder, "train") == [name for name in names if name not in held_out]


def test_at_least_one_picture_is_held_out(draw):
    least, other = sorted(["a.png", "b.png"], key=hash_share)
    assert hash_share(least) >= 0.1
    folder = draw(["a.png", "b.png"])
    assert (keys_of(folder, "train"), keys_of(folder, "held_out")) == ([other], [least])


def test_at_least_one_picture_is_trained_on(draw):
    folder = draw([name for name in NAMES if is_held_out(name)][:2])
    assert (len(keys_of(folder, "train")), len(keys_of(folder, "held_out"))) == (1, 1)


def test_one_picture_only(draw):
    folder = draw(["a.png", "b.png"])
    (folder / "b.png").unlink()
    with pytest.raises(
        UserError, match=r"holds 1 captioned picture that can be used; at least 2 .*; b\.png: it is named"
    ):
        load_collection(str(folder))


# Rows through `datasets`


def test_the_same_rows_as_a_data_set(draw):
    collection = load_collection(str(draw(NAMES)))
    rows = list(collection.dataset())
    assert [row["key"] for row in rows] == NAMES
    assert rows[7]["captions"] == ["thing 7"]
    assert rows[7]["image"].getpixel((0, 0)) == (7, 7, 7)
    assert [row["key"] for row in collection.dataset("held_out")] == [name for name in NAMES if is_held_out(name)]


def test_nodes_share_the_rows_without_loss(draw):
    dataset = load_collection(str(draw(NAMES))).dataset()
    assert dataset.num_shards == 2
    parts = [[row["key"] for row in split_dataset_by_node(dataset, rank, 2)] for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == NAMES
    assert min(map(len, parts)) > 0


# In memory


def test_pictures_in_order(draw):
    folder = draw(NAMES[:40])
    loaded = load_pictures(load_collection(str(folder)), (2, 2))
    numbers = {name: number for number, name in enumerate(NAMES)}
    assert loaded.train[:, 0, 0, 0].tolist() == [numbers[name] for name in keys_of(folder, "train")]
    assert loaded.held_out[:, 2, 1, 1].tolist() == [numbers[name] for name in keys_of(folder, "held_out")]


def test_no_more_than_asked_for(draw):
    collection = load_collection(str(draw(NAMES)))
    few = load_pictures(collection, (2, 2), 100)
    assert len(few.train) == 100
    assert 0 < len(few.held_out) < 40
    assert len(load_pictures(collection, (2, 2), 1000).train) == len(load_pictures(collection, (2, 2)).train)


def test_pictures_need_two_sides(draw):
    with pytest.raises(UserError, match=r"`network\.input_shape` of height and width, found \[16\]"):
        load_pictures(load_collection(str(draw(["a.png", "b.png"]))), [16])


# What is skipped


def test_up_to_the_stated_share_is_skipped(draw):
    folder = draw(NAMES[:200])
    (folder / NAMES[5]).write_text("no picture")
    (folder / NAMES[6]).write_bytes(b"")
    loaded = load_pictures(load_collection(str(folder)), (2, 2))
    assert len(loaded.train) + len(loaded.held_out) == 198
    assert loaded.skipped.summary() == (
        "2 of 200 pictures skipped, most often (1) because it is not a picture in a format that is read"
    )
    (folder / NAMES[7]).write_bytes(b"")
    with pytest.raises(
        UserError, match=r"3 of 200 pictures cannot be used, .* `max_skipped` 0\.01\. 005\.png: it is not"
    ):
        load_pictures(load_collection(str(folder)), (2, 2))
    config = CollectionConfig(max_skipped=0.02)
    assert len(load_pictures(load_collection(str(folder), config=config), (2, 2)).skipped.rows) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_skipped": 1.5}, r"`max_skipped` must lie in \[0, 1\], found 1.5"),
        ({"background": "whyte"}, "a colour .* found 'whyte'"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UserError, match=message):
        CollectionConfig(**settings)


@pytest.mark.parametrize("name", ["nowhere", "file.txt"])
def test_no_source_at_all(tmp_path, name):
    (tmp_path / "file.txt").write_text("")
    message = {
        "nowhere": "there is no folder .*nowhere here; `data` must be openmoji",
        "file.txt": "file.txt.* is none",
    }
    with pytest.raises(UserError, match=message[name]):
        load_collection(str(tmp_path / name))


# Shards


def test_a_collection_has_at_most_so_many_shards():
    shards = [Shard(str(number), lambda number=number: iter([Unusable(str(number), "")]), "") for number in range(600)]
    joined = join_shards(shards)
    assert len(joined) == 200 <= MAX_SHARDS
    assert [row.key for shard in joined for row in shard.read()] == [str(number) for number in range(600)]
    assert join_shards(shards[:256]) == shards[:256]
    for count in (1, 1000, 10**5, 10**8):
        assert -(-count // rows_per_shard(count)) <= MAX_SHARDS
    assert (rows_per_shard(1000), rows_per_shard(10**6)) == (256, 8192)


def test_the_fingerprint_names_how_rows_are_read(draw):
    folder = str(draw(["a.png", "b.png"]))
    prints = {
        load_collection(folder, config=CollectionConfig(background=name)).fingerprint() for name in ("red", "blue")
    }
    assert len(prints) == 2
    assert (
        load_collection(folder).fingerprint()
        == load_collection(folder, config=CollectionConfig(max_skipped=0.5)).fingerprint()
    )


def test_arrays_are_no_data_set_of_pictures(tmp_path):
    shard = Shard("x", lambda: iter([Row(str(n), np.zeros((1, 4), np.uint8), ("x",)) for n in range(3)]), "")
    with pytest.raises(UserError, match="A data set holds pictures only"):
        Collection([shard], array_shape=(1, 4)).dataset()


# Order and choice


def test_batches_of_several_workers_come_in_the_order_of_the_shards():
    batches = [(1, "b1", False), (0, "a1", False), (2, "c1", False), (2, "", True), (1, "b2", False), (0, "a2", False),
               (0, "", True), (1, "", True)]  # fmt: skip
    assert list(in_order(iter(batches))) == [(0, "a1"), (0, "a2"), (1, "b1"), (1, "b2"), (2, "c1")]


@pytest.mark.slow
@pytest.mark.parametrize("max_pictures", [None, 120, 150])
def test_pictures_do_not_depend_on_the_number_of_cores(draw, monkeypatch, max_pictures):
    folder = draw(NAMES)
    loaded = []
    for cores in (1, 3, 8):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        collection = load_collection(str(folder))
        rows = list(collection.rows())
        collection.shards = [
            Shard(str(start), partial(iter, rows[start : start + 50]), "") for start in range(0, 300, 50)
        ]
        loaded.append(load_pictures(collection, (2, 2), max_pictures))
    for other in loaded[1:]:
        assert torch.equal(loaded[0].train, other.train)
        assert torch.equal(loaded[0].held_out, other.held_out)
    assert len(loaded[0].train) == (max_pictures or len(keys_of(folder, "train")))


def test_a_sample_is_of_every_shard():
    pictures = [np.full((3, 2, 2), number // 100, np.uint8) for number in range(1000)]  # ten shards, one class each
    rows = [Row(str(number), picture, ("x",)) for number, picture in enumerate(pictures)]
    shards = [Shard(str(at), lambda at=at: iter(rows[at : at + 100]), "") for at in range(0, 1000, 100)]
    few = load_pictures(Collection(shards, array_shape=(3, 2, 2)), (2, 2), 200)
    assert len(few.train) == 200
    assert sorted(set(few.train[:, 0, 0, 0].tolist())) == list(range(10))
    most = max(few.train[:, 0, 0, 0].bincount().tolist())
    assert most <= 24  # an even share is 20


def test_a_sample_is_no_head_of_a_shard():
    """One archive that is sorted by class."""
    rows = [Row(str(number), np.full((3, 2, 2), number // 200, np.uint8), ("x",)) for number in range(2000)]
    collection = Collection([Shard("x", lambda: iter(rows), "")], array_shape=(3, 2, 2))
    few = load_pictures(collection, (2, 2), 400)
    counts = few.train[:, 0, 0, 0].bincount(minlength=10).tolist()
    assert sum(counts) == 400
    assert all(20 < count < 65 for count in counts)  # 40 each on average
    total = sum(collection.split_of(row.key) == "train" for row in rows)
    assert few.notes() == [f"400 of {total:,} training pictures are used, a sample of all of them"]
    assert not torch.equal(few.train, load_pictures(collection, (2, 2), 400, seed=1).train)
    assert torch.equal(few.train, load_pictures(collection, (2, 2), 400).train)
    assert load_pictures(collection, (2, 2), total).notes() == []


def test_quotas_by_hand():
    assert quotas([10, 30, 60], 10) == [1, 3, 6]
    assert quotas([1, 1, 1], 2) == [1, 1, 0]
    assert quotas([5, 0, 2], 100) == [5, 0, 2]


def test_short_shards_are_made_up_for_by_long_ones():
    def rows(count: int, start: int) -> list[Row]:
        return [Row(str(n), np.zeros((3, 2, 2), np.uint8), ("x",)) for n in range(start, start + count)]

    parts = [rows(5, 0), rows(500, 5), rows(5, 505)]
    shards = [Shard(str(n), lambda part=part: iter(part), "") for n, part in enumerate(parts)]
    assert len(load_pictures(Collection(shards, array_shape=(3, 2, 2)), (2, 2), 300).train) == 300
