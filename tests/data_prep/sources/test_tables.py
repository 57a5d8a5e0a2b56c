"""Parquet files and data sets of the `datasets` library."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from vqlm.data_prep import CollectionConfig, load_collection
from vqlm.data_prep.sources.rows import Row
from vqlm.data_prep.sources.tables import hub_shards, parquet_shards
from vqlm.training.errors import UserError


@pytest.fixture
def table(picture) -> pyarrow.Table:
    """Three pictures as Hugging Face stores them."""
    images = [{"bytes": picture(colour), "path": None} for colour in ("red", "green", "blue")]
    return pyarrow.table({"image": images, "text": [["red", "rouge"], ["green"], ["blue"]], "key": ["r", "g", "b"]})


# Parquet


def test_pictures_of_a_struct_of_bytes(tmp_path, table, picture, read):
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    shards = parquet_shards([tmp_path / "x.parquet"])
    assert read(shards)[0] == {
        "x.parquet/r": ("red", "rouge"), "x.parquet/g": ("green",), "x.parquet/b": ("blue",),
    }  # fmt: skip
    assert [row.image for row in shards[0].read()] == [picture("red"), picture("green"), picture("blue")]


def test_pictures_as_plain_bytes_or_paths_and_keys_by_number(tmp_path, picture):
    (tmp_path / "b.png").write_bytes(picture("blue"))
    pyarrow.parquet.write_table(pyarrow.table({"img": [picture("red")], "alt": ["red"]}), tmp_path / "x.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"img": ["b.png"], "alt": ["blue"]}), tmp_path / "y.parquet")
    shards = parquet_shards([tmp_path / "y.parquet", tmp_path / "x.parquet"], (None, "alt"))
    rows = [row for shard in shards for row in shard.read()]
    assert rows == [Row("x.parquet/0", picture("red"), ("red",)), Row("y.parquet/0", tmp_path / "b.png", ("blue",))]


def test_row_groups_become_shards_of_many_rows(tmp_path, picture):
    count = 700  # rows_per_shard: 256
    table = pyarrow.table({"image": [picture()] * count, "caption": [f"n {number}" for number in range(count)]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=100)
    shards = parquet_shards([tmp_path / "x.parquet"])
    rows = [list(shard.read()) for shard in shards]
    assert [len(part) for part in rows] == [300, 300, 100]
    assert [row.key for part in rows for row in part] == [f"x.parquet/{number}" for number in range(count)]
    assert [row.captions[0] for part in rows for row in part] == [f"n {number}" for number in range(count)]


@pytest.mark.parametrize("data", ["{}", "{}/*.parquet", "{}/x.parquet"])
def test_a_folder_a_glob_and_a_file(tmp_path, table, data):
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert len(list(load_collection(data.format(tmp_path)).rows())) == 3


def test_a_row_without_a_picture(tmp_path, picture, read):
    table = pyarrow.table({"image": [picture(), None], "caption": ["one", "two"]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    captions, reasons = read(parquet_shards([tmp_path / "x.parquet"]))
    assert captions == {"x.parquet/0": ("one",)}
    assert reasons == {"x.parquet/1": "its image holds no picture, found None"}


def test_other_columns_are_named(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"a": [1], "b": [2]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet must have the columns .* found a, b; .* `image_column`"):
        parquet_shards([tmp_path / "x.parquet"])


def test_a_file_that_is_cut(tmp_path, table):
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "x.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:200])
    with pytest.raises(UserError, match=r"x\.parquet cannot be read as Parquet"):
        parquet_shards([tmp_path / "x.parquet"])


# Data sets


@pytest.fixture
def dataset(picture) -> Dataset:
    images = [{"bytes": picture(colour), "path": None} for colour in ("red", "green", "blue")]
    features = Features({"image": Image(), "caption": Value("string"), "label": ClassLabel(names=["hot", "very_cold"])})
    columns = {"image": images, "caption": ["red", "green", "blue"], "label": [0, 1, 1]}
    return Dataset.from_dict(columns, features=features)


def test_a_data_set_saved_to_disk(tmp_path, dataset, picture):
    dataset.save_to_disk(str(tmp_path / "saved"))
    rows = list(load_collection(f"hf:{tmp_path / 'saved'}").rows())
    assert rows[1] == Row("1", picture("green"), ("green",))
    assert len(rows) == 3


def test_a_split_of_several(tmp_path, dataset):
    both = DatasetDict({"train": dataset, "test": dataset.select([2, 0])})
    both.save_to_disk(str(tmp_path / "saved"))
    name = f"hf:{tmp_path / 'saved'}"
    both = load_collection(name)
    assert [row.captions[0] for row in both.rows("train")] == ["red", "green", "blue"]
    assert [(row.key, row.captions[0]) for row in both.rows("test")] == [
        ("test split/0", "blue"), ("test split/1", "red"),
    ]  # fmt: skip
    assert [row.captions[0] for row in load_collection(f"{name}:test").rows()] == ["blue", "red"]
    with pytest.raises(UserError, match="has no split 'dev'; it has train, test"):
        load_collection(f"{name}:dev")


def test_a_folder_of_parquet_that_load_dataset_reads(tmp_path, dataset, monkeypatch):
    (tmp_path / "hub").mkdir()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    dataset.to_parquet(str(tmp_path / "hub" / "train.parquet"))
    assert [row.captions[0] for row in load_collection(f"hf:{tmp_path / 'hub'}").rows()] == ["red", "green", "blue"]


def test_classes_become_captions_by_a_template(tmp_path, dataset):
    dataset.save_to_disk(str(tmp_path / "saved"))
    config = CollectionConfig(class_template="a {} thing")
    rows = load_collection(f"hf:{tmp_path / 'saved'}", config=config).rows()
    assert [row.captions[0] for row in rows] == ["a hot thing", "a very cold thing", "a very cold thing"]


def test_classes_without_a_template(tmp_path, dataset):
    dataset.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match="label holds classes, not captions; set `class_template`"):
        hub_shards(str(tmp_path / "saved"), (None, "label"))


def test_a_name_that_cannot_be_loaded(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be loaded .* write hf:NAME"):
        hub_shards(str(tmp_path / "nowhere"))


# Keys, paths and damage


def captioned(tmp_path, picture, **columns) -> list[Row]:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    return list(load_collection(str(tmp_path / "x.parquet"), config=CollectionConfig(max_skipped=1.0)).rows())


def test_five_captions_of_a_picture_are_one_row(tmp_path, picture):
    images = [picture(colour) for colour in ("red", "blue") for _ in range(5)]
    rows = captioned(tmp_path, picture, image=images, caption=[f"n {n}" for n in range(10)], id=[7] * 5 + [8] * 5)
    assert [(row.key, row.captions) for row in rows] == [
        ("x.parquet/7 (row 0)", ("n 0", "n 1", "n 2", "n 3", "n 4")),
        ("x.parquet/8 (row 5)", ("n 5", "n 6", "n 7", "n 8", "n 9")),
    ]


def test_rows_of_one_id_are_of_one_split_wherever_they_stand(tmp_path, picture):
    ids = [number % 150 for number in range(300)]
    images = [picture() for _ in ids]
    rows = captioned(tmp_path, picture, image=images, caption=[f"n {n}" for n in range(300)], id=ids)
    assert len({row.key for row in rows}) == 300
    rule = load_collection(str(tmp_path / "x.parquet")).split_of
    assert all(rule(rows[number].key) == rule(rows[number + 150].key) for number in range(150))
    assert {rule(row.key) for row in rows} == {"train", "held_out"}


def test_an_id_of_null_is_a_number(tmp_path, picture):
    rows = captioned(tmp_path, picture, image=[picture()] * 3, caption=["a", "b", "c"], id=["x", None, "z"])
    assert [row.key for row in rows] == ["x.parquet/x", "x.parquet/1", "x.parquet/z"]


def test_an_id_of_lists_is_no_key(tmp_path, picture):
    rows = captioned(tmp_path, picture, image=[picture()] * 2, caption=["a", "b"], id=[[1], [2]])
    assert [row.key for row in rows] == ["x.parquet/0", "x.parquet/1"]


def test_an_id_of_classes_is_no_key(tmp_path, picture):
    rows = captioned(tmp_path, picture, image=[picture()] * 100, caption=["a"] * 100, id=[n % 2 for n in range(100)])
    assert [row.key for row in rows] == [f"x.parquet/{number}" for number in range(100)]


@pytest.mark.parametrize("name", ["../secret.png", "{}/secret.png"])
def test_a_path_outside_the_folder_of_the_table(tmp_path, picture, read, name):
    (tmp_path / "secret.png").write_bytes(picture())
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.png").write_bytes(picture())
    name = name.format(tmp_path)
    table = pyarrow.table({"image": ["a.png", name, "b\0.png"], "caption": ["one", "two", "three"]})
    pyarrow.parquet.write_table(table, tmp_path / "inner" / "x.parquet")
    captions, reasons = read(parquet_shards([tmp_path / "inner" / "x.parquet"]))
    assert "x.parquet/0" in captions
    assert "set `allow_outside_files`" in reasons["x.parquet/1"]
    captions, _ = read(parquet_shards([tmp_path / "inner" / "x.parquet"], allow_outside_files=True))
    assert captions["x.parquet/1"] == ("two",)


def test_a_damaged_page_loses_its_group_alone(tmp_path, picture, read):
    table = pyarrow.table({"image": [picture()] * 30, "caption": [f"caption {n}" for n in range(30)]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=10, compression="gzip")
    path = tmp_path / "x.parquet"
    column = pyarrow.parquet.read_metadata(path).row_group(1).column(1)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset : column.data_page_offset + 40] = bytes(40)
    path.write_bytes(content)
    captions, reasons = read(parquet_shards([path]))
    assert set(captions) == {f"x.parquet/{number}" for number in [*range(10), *range(20, 30)]}
    assert len(reasons) == 1
    assert "breaks here" in reasons["x.parquet/10"]
    assert "10 rows are lost" in reasons["x.parquet/10"]


def test_two_tables_of_one_name(tmp_path, table):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        pyarrow.parquet.write_table(table, tmp_path / place / "x.parquet")
    keys = [row.key for row in load_collection(str(tmp_path)).rows()]
    assert keys == [f"{place}/x.parquet/{key}" for place in "ab" for key in "rgb"]


def test_a_folder_that_was_saved_to_disk_needs_no_prefix(tmp_path, dataset):
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert [row.captions[0] for row in load_collection(str(tmp_path / "saved")).rows()] == ["red", "green", "blue"]
