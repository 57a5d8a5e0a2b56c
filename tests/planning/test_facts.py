"""Facts of small folders, by hand."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqlm.data_prep import load_collection
from vqlm.planning import facts as facts_module
from vqlm.planning.facts import gather_facts
from vqlm.training.errors import UserError


def write_folder(folder: Path, pictures: dict[str, tuple[Image.Image, str]]) -> Path:
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "caption"])
        for name, (picture, caption) in pictures.items():
            picture.save(folder / name)
            writer.writerow([name, caption])
    return folder


def photograph(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def cut_out(width: int, height: int) -> Image.Image:
    picture = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (width // 4, height // 4, width // 2, height // 2))
    return picture


def test_what_four_pictures_are(tmp_path):
    collection = load_collection(
        str(
            write_folder(
                tmp_path / "few",
                {
                    "a.png": (photograph(100, 50), "a red cat"),
                    "b.png": (photograph(60, 60), "a dog"),
                    "c.png": (cut_out(40, 40), "a red cat"),
                    "d.png": (Image.new("RGB", (30, 20), "white"), "a bird on a roof"),
                },
            )
        )
    )
    facts = gather_facts(collection)
    assert sum(facts.pictures.values()) == facts.counted == 4
    assert facts.held_out == 1
    assert facts.median_side == 45  # of 50, 60, 40, 20
    assert facts.not_square == 0.5
    assert facts.transparent == 0.25
    assert facts.flat_border == 0.5  # the cut-out on white, and the white one
    assert facts.captions_per_picture == 1
    assert facts.words_per_caption == 13 / 4
    assert facts.distinct_captions == 3
    assert facts.seconds_per_picture > 0
    assert sorted(facts.captions) == ["a bird on a roof", "a dog", "a red cat", "a red cat"]


def test_held_out_captions_of_known_words(tmp_path):
    names = [f"{number}.png" for number in range(40)]
    known = write_folder(tmp_path / "known", {name: (photograph(8, 8), "a cat") for name in names})
    assert gather_facts(load_collection(str(known))).known_words == 1.0
    unknown = write_folder(tmp_path / "unknown", {name: (photograph(8, 8), f"word{name}") for name in names})
    assert gather_facts(load_collection(str(unknown))).known_words == 0.0


def test_the_seed_decides_the_sample_and_its_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(facts_module, "SAMPLED", 5)
    folder = write_folder(tmp_path / "many", {f"{n}.png": (photograph(8, 8), f"number {n}") for n in range(30)})
    collection = load_collection(str(folder))
    first, again, other = (gather_facts(collection, seed).captions for seed in (0, 0, 1))
    assert len(first) == 5
    assert first == again != other


def test_of_many_shards_some_are_counted_and_the_rest_estimated(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "many", {f"{n:03}.png": (photograph(8, 8), f"number {n}") for n in range(600)})
    monkeypatch.setattr(facts_module, "COUNTED", 100)
    monkeypatch.setattr(facts_module, "SAMPLED", 5)
    facts = gather_facts(load_collection(str(folder)))  # shards of 256, 256 and 88 rows
    assert facts.counted < 600
    assert sum(facts.pictures.values()) == pytest.approx(3 * facts.counted, abs=2)


def test_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "days.npz", values=np.zeros((4, 1, 8), np.float32), captions=np.array(["a"] * 4))
    with pytest.raises(UserError, match="a plan is made for pictures"):
        gather_facts(load_collection(str(tmp_path / "days.npz")))


def test_openmoji_is_drawn_at_any_size():
    facts = gather_facts(load_collection("openmoji"))
    assert facts.median_side is None
    assert (facts.trained, facts.held_out) == (3555, 398)
