"""Which file of a folder a caption means; files of the system, links, paths outside."""

import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from captioned_folder import draw, folder_shards, write_csv, write_jsonl

from vqlm.data_prep import CollectionConfig, load_collection, load_pictures
from vqlm.data_prep.collections.picture_loading import decode_few
from vqlm.data_prep.sources.folder import read_folder, shards_of_content
from vqlm.training.errors import UserError


@pytest.mark.parametrize("name", ["x.avif", "x.jfif", "x.jpe", "x.jp2", "x.ppm", "x.tga", "x.qoi", "X.JPG"])
def test_pictures_of_rarer_suffixes(folder, read, name):
    (folder / name).write_bytes((folder / "a.png").read_bytes())
    (folder / name).with_suffix(".TXT").write_text("three")
    (folder / "a.txt").write_text("one")
    assert read(folder_shards(folder))[0] == {"a.png": ("one",), name: ("three",)}


@pytest.mark.parametrize("name", ["x.eps", "x.ps", "x.pdf", "x.wmf"])
def test_formats_that_run_programs_are_no_pictures(folder, read, name):
    (folder / name).write_text("%!PS")
    (folder / "x.txt").write_text("three")
    (folder / "a.txt").write_text("one")
    assert set(read(folder_shards(folder))[0]) == {"a.png"}


def test_the_case_of_a_metadata_file(folder, read):
    write_csv(folder, "file_name,caption", "a.png,one")
    (folder / "metadata.csv").rename(folder / "Metadata.CSV")
    assert read(folder_shards(folder))[0] == {"a.png": ("one",)}


def test_names_in_either_unicode_form(folder, read):
    composed, decomposed = "\u00e5.png", "a\u030a.png"
    for written, named in ((composed, decomposed), (decomposed, composed)):
        draw(folder, [written])
        write_csv(folder, "file_name,caption", f"{named},one", "a.png,two")
        assert read(folder_shards(folder)) == ({composed: ("one",), "a.png": ("two",)}, {})
        (folder / written).unlink()


def test_one_name_in_both_unicode_forms(folder, read):
    draw(folder, ["\u00e5.png", "a\u030a.png"])
    for name in ("\u00e5.txt", "a.txt", "b.txt"):
        (folder / name).write_text("x")
    captions, reasons = read(folder_shards(folder))
    assert set(captions) == {"a.png", "b.png", "\u00e5.png"}
    assert "same name in another Unicode form" in reasons["\u00e5.png (again)"]


def test_backslashes_of_windows(folder, read):
    draw(folder, ["sub/c.png"])
    write_csv(folder, "file_name,caption", r"sub\c.png,one", "a.png,two")
    assert read(folder_shards(folder)) == ({"a.png": ("two",), "sub/c.png": ("one",)}, {})


def test_metadata_of_an_inner_folder_hides_nothing(folder, read):
    draw(folder, ["inner/1.png", "inner/2.png"])
    write_csv(folder / "inner", "file_name,caption", "1.png,in it")
    (folder / "a.txt").write_text("one")
    content = read_folder(folder)
    assert read(shards_of_content(folder, content)) == (
        {"a.png": ("one",), "inner/1.png": ("in it",)},
        {"b.png": "it has no caption: there is no .txt of its name beside it"},
    )
    assert content.kinds["pictures that no file with captions names, left out"] == 1


def test_a_text_beside_a_picture_that_metadata_does_not_name(folder, read):
    write_csv(folder, "file_name,caption", "a.png,one")
    (folder / "b.txt").write_text("two")
    assert read(folder_shards(folder)) == ({"a.png": ("one",), "b.png": ("two",)}, {})


def test_a_picture_named_captions_has_its_text(folder, read):
    draw(folder, ["captions.png"])
    for name in ("a", "b", "captions"):
        (folder / f"{name}.txt").write_text(f"of {name}")
    assert read(folder_shards(folder))[0] == {
        "a.png": ("of a",), "b.png": ("of b",), "captions.png": ("of captions",),
    }  # fmt: skip


def test_the_files_of_img2dataset(folder):
    draw(folder, ["00000/000000000.jpg", "00000/000000001.jpg"])
    for number, caption in ((0, "one"), (1, "two")):
        (folder / "00000" / f"00000000{number}.txt").write_text(caption)
        (folder / "00000" / f"00000000{number}.json").write_text("{}")
    table = pyarrow.table({"url": ["x", "y"], "caption": ["one", "two"], "key": ["000000000", "000000001"]})
    pyarrow.parquet.write_table(table, folder / "00000.parquet")
    for name in ("a.png", "b.png"):
        (folder / name).unlink()
    rows = load_collection(str(folder)).rows()
    assert [(row.key, row.captions) for row in rows] == [
        ("00000/000000000.jpg", ("one",)), ("00000/000000001.jpg", ("two",)),
    ]  # fmt: skip


def test_files_of_the_system_are_no_data(folder, read):
    hidden = ["__MACOSX/a.png", "._a.png", ".thumbnails/a.png", "@eaDir/a.png", "Thumbs.db", ".DS_Store"]
    for name in hidden:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    for name in ("a.txt", "._a.txt", "b.txt"):
        (folder / name).write_text("x")
    content = read_folder(folder)
    assert read(shards_of_content(folder, content)) == ({"a.png": ("x",), "b.png": ("x",)}, {})
    assert content.kinds == {
        "hidden files and folders, files of the system": 7, "pictures with an entry": 2, "files with captions": 0,
        "texts beside pictures": 2,
    }  # fmt: skip


def test_a_link_into_its_own_parent_multiplies_nothing(folder, read):
    draw(folder, ["sub/c.png"])
    for name in ("a.png", "b.png", "sub/c.png"):
        (folder / name).with_suffix(".txt").write_text("x")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "again").symlink_to(folder / "sub")
    assert set(read(folder_shards(folder))[0]) == {"a.png", "b.png", "sub/c.png"}


@pytest.mark.parametrize("target", ["..", "../..", "/"])
def test_a_link_to_what_holds_the_folder_is_not_followed(folder, read, target):
    draw(folder.parent / "beside", ["c.png"])
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("x")
    (folder / "up").symlink_to(target)
    assert set(read(folder_shards(folder))[0]) == {"a.png", "b.png"}


def test_folders_of_a_link_that_were_entered_are_not_entered_again(folder, tmp_path, read):
    draw(tmp_path / "store" / "inner", ["c.png"])
    (tmp_path / "store" / "inner" / "c.txt").write_text("x")
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("x")
    (folder / "1").symlink_to(tmp_path / "store" / "inner")
    (folder / "2").symlink_to(tmp_path / "store")
    assert set(read(folder_shards(folder))[0]) == {"a.png", "b.png", "1/c.png"}


def test_links_to_another_place_are_followed_once(folder, tmp_path, read):
    draw(tmp_path / "store", ["c.png"])
    (tmp_path / "store" / "c.txt").write_text("x")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "store")
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("x")
    (folder / "one").symlink_to(tmp_path / "store")
    (folder / "two").symlink_to(tmp_path / "store")
    assert set(read(folder_shards(folder))[0]) == {"a.png", "b.png", "one/c.png"}


@pytest.mark.parametrize("is_absolute", [True, False])
def test_a_picture_outside_the_folder(folder, tmp_path, read, is_absolute):
    draw(tmp_path, ["secret.png"])
    name = str(tmp_path / "secret.png") if is_absolute else "../secret.png"
    write_csv(folder, "file_name,caption", "a.png,one", f"{name},two")
    captions, reasons = read(folder_shards(folder))
    assert set(captions) == {"a.png"}
    assert "set `allow_outside_files` if you trust the captions" in reasons["../secret.png"]
    captions, _ = read(folder_shards(folder, allow_outside_files=True))
    assert captions == {"../secret.png": ("two",), "a.png": ("one",)}


def test_an_absolute_path_inside_the_folder(folder, read):
    write_csv(folder, "file_name,caption", f"{folder / 'a.png'},one")
    assert read(folder_shards(folder))[0] == {"a.png": ("one",)}


def test_a_nul_in_a_name(folder, read):
    write_jsonl(folder, {"file_name": "a.png", "caption": "one"}, {"file_name": "b\0.png", "caption": "two"})
    assert read(folder_shards(folder)) == ({"a.png": ("one",)}, {"b\0.png": "its name holds a NUL byte"})


def test_half_a_character_in_a_name(folder, read):
    write_jsonl(folder, {"file_name": "a.png", "caption": "one"}, {"file_name": "\ud83d.png", "caption": "two"})
    assert set(read(folder_shards(folder))[1]) == {r"\ud83d.png"}


def test_a_name_in_latin_1(folder, read):
    name = os.fsdecode(b"bl\xe5.png")
    try:
        (folder / name).write_bytes((folder / "a.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for stem in (os.fsdecode(b"bl\xe5"), "a", "b"):
        (folder / f"{stem}.txt").write_text("x")
    assert set(read(folder_shards(folder))[0]) == {"a.png", "b.png", r"bl\xe5.png"}


@pytest.mark.parametrize(
    "name", ["c.txt", "metadata.csv", "metadata.jsonl", "captions.txt", "captions_x.json", "x.tar"]
)
@pytest.mark.parametrize("is_pipe", [True, False])
def test_pipes_and_devices_are_not_read(folder, read, name, is_pipe):
    for stem in "abc":
        draw(folder, [f"{stem}.png"])
        (folder / f"{stem}.txt").write_text(stem)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name) if is_pipe else (folder / name).symlink_to("/dev/zero")
    collection = load_collection(str(folder))
    captions = {row.key: row.captions for row in collection.rows()}
    assert captions == {f"{stem}.png": (stem,) for stem in "abc" if f"{stem}.txt" != name}
    assert collection.count_files is not None
    assert collection.count_files()["pipes and devices"] == 1


def test_a_picture_that_is_a_device_is_a_row_with_the_reason(folder, read):
    for stem in "abc":
        (folder / f"{stem}.txt").write_text(stem)
    (folder / "c.png").symlink_to("/dev/zero")
    config = CollectionConfig(max_skipped=0.5, held_out="a*")
    pictures = load_pictures(load_collection(str(folder), config=config), (8, 8))
    assert [(row.key, row.reason) for row in pictures.skipped.rows] == [("c.png", "it is not a file")]


def test_a_file_or_a_folder_without_permission(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(folder))

    write_csv(folder, "file_name,caption", "a.png,one")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(UserError, match=r"metadata.csv cannot be read \(Permission denied\)"):
            read_folder(folder)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"pictures cannot be read \(Permission denied\); check its permissions"):
        read_folder(folder)


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "y/" * 3000 + "x.png", "\0.png", "\ud800.png"])
def test_names_that_no_file_system_holds(folder, read, name):
    write_jsonl(folder, {"file_name": name, "caption": "one"}, {"file_name": "a.png", "caption": "two"})
    captions, reasons = read(folder_shards(folder))
    assert captions == {"a.png": ("two",)}
    assert len(reasons) == 1
    table = {"image": [name.encode("utf-8", "replace").decode(), "a.png", "b.png"], "caption": ["one", "two", "three"]}
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "x.parquet")
    decoded = decode_few(list(load_collection(str(folder / "x.parquet")).rows()), (4, 4), CollectionConfig())
    assert [row.captions for row in decoded[0].rows] == [("two",), ("three",)]


def test_a_name_of_a_collection_that_no_file_system_holds():
    for name in ("x" * 5000 + "*", "x" * 5000 + ":", "a\0b*"):
        with pytest.raises(UserError, match="`data` must be openmoji"):
            load_collection(name)


def test_licence_lines_in_latin_1(folder):
    for stem in "ab":
        (folder / f"{stem}.txt").write_text(stem)
    (folder / "NOTICE").write_bytes("by René, CC BY 4.0\n".encode("latin-1"))
    assert load_collection(str(folder)).attribution == "by René, CC BY 4.0"
