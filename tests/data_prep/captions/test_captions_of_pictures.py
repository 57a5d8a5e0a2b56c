"""Collections whose captions are names or chosen lines, and collections without copies."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqlm.data_prep import CollectionConfig, load_collection
from vqlm.training.errors import UserError


def write(path: Path, seed: int, text: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "pictures"
    for seed, name in enumerate(("birds/red_kite-1.png", "birds/barnOwl.png", "IMG_1234.png", "a_glove.png")):
        write(place / name, seed)
    return place


def captions_of(data: Path | str, **settings) -> dict[str, tuple[str, ...]]:
    return {row.key: row.captions for row in load_collection(str(data), config=CollectionConfig(**settings)).rows()}


def test_names_are_captions_and_those_without_words_are_left_out(folder):
    collection = load_collection(str(folder), config=CollectionConfig(captions_from="names"))
    assert {row.key: row.captions for row in collection.rows()} == {
        "a_glove.png": ("a glove",), "birds/barnOwl.png": ("barn owl",), "birds/red_kite-1.png": ("red kite",),
    }  # fmt: skip
    assert collection.notes == ("1 pictures whose names have no words, left out",)
    assert collection.count_files is not None
    assert collection.count_files()["pictures whose names have no words, left out"] == 1


def test_names_are_captions_whatever_the_files_say(folder):
    write(folder / "a_glove.png", 3, "not this")
    (folder / "metadata.csv").write_text("file_name,caption\nbirds/barnOwl.png,nor this\n")
    assert captions_of(folder, captions_from="names")["a_glove.png"] == ("a glove",)
    assert captions_of(folder, captions_from="names", class_template="{path}: {name}") == {
        "a_glove.png": (": a glove",), "birds/barnOwl.png": ("birds: barn owl",),
        "birds/red_kite-1.png": ("birds: red kite",),
    }  # fmt: skip


def test_a_template_of_names_for_pictures_without_captions(folder):
    write(folder / "a_glove.png", 3, "not this")
    (folder / "metadata.csv").write_text("file_name,caption\nIMG_1234.png,a house\n")
    captions = captions_of(folder, class_template="{name}")
    assert captions["IMG_1234.png"] == ("a house",)
    assert captions["birds/red_kite-1.png"] == ("red kite",)


def test_names_that_have_no_words_at_all(tmp_path):
    for seed in range(3):
        write(tmp_path / f"IMG_{seed}.png", seed)
    with pytest.raises(UserError, match=r"the names of its 3 pictures, such as IMG_0\.png, have no words; write"):
        captions_of(tmp_path, captions_from="names")
    with pytest.raises(UserError, match="3 pictures without a caption; .* set `captions_from` to names"):
        captions_of(tmp_path)


def test_names_in_a_tar_file(folder, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.add(path, path.relative_to(folder).as_posix())
    captions = captions_of(tmp_path / "x.tar", captions_from="names", max_skipped=1.0)
    assert captions == {
        "x.tar/a_glove": ("a glove",), "x.tar/birds/barnOwl": ("barn owl",), "x.tar/birds/red_kite-1": ("red kite",),
    }  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [("captions_from", "names"), ("caption_lines", "first")])
def test_what_has_captions_of_its_own(tmp_path, name, value):
    np.savez(tmp_path / "x.npz", values=np.zeros((3, 1, 8)), captions=["a", "b", "c"])
    with pytest.raises(UserError, match=f"`{name}` {value} has no effect on .*, which has its own captions"):
        captions_of(tmp_path / "x.npz", **{name: value})


def test_a_language_of_the_texts_and_those_that_lack_it(tmp_path):
    for seed, text in enumerate(("A glove.\nde.utf8=Ein Handschuh.", "A hat.\nde.utf8=Ein Hut.", "A shoe.")):
        write(tmp_path / f"{seed}.png", seed, text)
    collection = load_collection(str(tmp_path), config=CollectionConfig(caption_lines="de"))
    assert [row.captions for row in collection.rows()] == [("Ein Handschuh.",), ("Ein Hut.",)]
    assert collection.notes == ("1 pictures without a caption in de, left out",)
    assert captions_of(tmp_path, caption_lines="first")["0.png"] == ("A glove.",)
    assert captions_of(tmp_path)["0.png"] == ("A glove.", "Ein Handschuh.")
    with pytest.raises(UserError, match="no text beside its 3 pictures has a line in ja"):
        captions_of(tmp_path, caption_lines="ja")


def test_copies_are_left_out_and_counted(tmp_path):
    for seed in range(6):
        write(tmp_path / f"{seed}.png", seed % 4, f"thing {seed}")
    with Image.open(tmp_path / "0.png") as picture:
        picture.save(tmp_path / "again.bmp")  # other bytes, the same pixels
    (tmp_path / "again.txt").write_text("thing again")
    collection = load_collection(str(tmp_path), config=CollectionConfig(drop_copies=True))
    assert [row.key for row in collection.rows()] == ["0.png", "1.png", "2.png", "3.png"]
    assert collection.notes == ("3 of 7 pictures are copies of another, left out",)
    assert len(captions_of(tmp_path)) == 7


def test_copies_in_another_of_several_collections(tmp_path):
    for place, seeds in (("first", (0, 1, 2)), ("second", (2, 3, 4))):
        for seed in seeds:
            write(tmp_path / place / f"{seed}.png", seed, f"thing {seed}")
    data = f"{tmp_path / 'first'} + {tmp_path / 'second'}"
    collection = load_collection(data, config=CollectionConfig(drop_copies=True))
    assert [row.key for row in collection.rows()] == [f"first/{n}.png" for n in (0, 1, 2)] + [
        f"second/{n}.png" for n in (3, 4)
    ]
    assert collection.notes == ("1 of 6 pictures are copies of another, left out",)


@pytest.mark.parametrize("settings", [{"captions_from": "names"}, {"caption_lines": "first"}, {"drop_copies": True}])
def test_how_captions_are_read_is_part_of_what_a_collection_is(tmp_path, settings):
    for seed in range(3):
        write(tmp_path / f"thing_{seed}x.png", seed, f"thing {seed}")
    plain, other = (load_collection(str(tmp_path), config=CollectionConfig(**given)) for given in ({}, settings))
    assert plain.fingerprint() != other.fingerprint()
