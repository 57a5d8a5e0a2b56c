"""Tar files of samples: what belongs together, captions, archives that are cut."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from vqlm.data_prep import load_collection
from vqlm.data_prep.sources.webdataset import count_members, tar_shards


def write_tar(path: Path, *members: tuple[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tgz", "w:gz")])
def test_pictures_and_captions_of_one_stem(tmp_path, picture, read, name, mode):
    path = write_tar(
        tmp_path / name,
        ("a/000.jpg", picture("red", "JPEG")), ("a/000.txt", b"red\nrouge"),
        ("a/001.txt", b"green"), ("a/001.png", picture("green")), ("a/001.json", b'{"caption": "not this"}'),
        ("b.webp", picture("blue", "WEBP")), ("b.json", json.dumps({"caption": ["blue", "bleu"]}).encode()),
        mode=mode,
    )  # fmt: skip
    captions, reasons = read(tar_shards([path]))
    assert captions == {
        f"{name}/a/000": ("red", "rouge"), f"{name}/a/001": ("green",), f"{name}/b": ("blue", "bleu"),
    }  # fmt: skip
    assert reasons == {}


def test_bytes_come_out_as_they_went_in(tmp_path, picture):
    path = write_tar(tmp_path / "x.tar", ("0.png", picture("red")), ("0.txt", b"red"))
    assert next(tar_shards([path])[0].read()).image == picture("red")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_headers(tmp_path, picture, read, form):
    """Long names, names beyond ASCII, folders and links among the files."""
    stems = (
        ["a", "d/" + "e" * 60 + "/" + "b" * 60, "å", "z"]
        if form == tarfile.USTAR_FORMAT
        else ["a", "b" * 180, "å", "z"]
    )
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as archive:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for stem in stems:
            for suffix, content in ((".png", picture()), (".txt", b"caption of " + stem[:1].encode())):
                member = tarfile.TarInfo(stem + suffix)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(link)
    captions, reasons = read(tar_shards([tmp_path / "x.tar"]))
    assert captions == {f"x.tar/{stem}": (f"caption of {stem[:1]}",) for stem in stems}
    assert reasons == {}


def test_one_shard_per_tar_in_the_order_of_names(tmp_path, picture):
    for name in ("2.tar", "1.tar"):
        write_tar(
            tmp_path / name, ("0.png", picture()), ("0.txt", name.encode()), ("1.png", picture()), ("1.txt", b"x")
        )
    for data in (str(tmp_path), str(tmp_path / "*.tar")):
        collection = load_collection(data)
        assert [shard.name for shard in collection.shards] == ["1.tar", "2.tar"]
        assert [row.captions[0] for row in collection.rows()] == ["1.tar", "x", "2.tar", "x"]


def test_a_caption_under_another_key(tmp_path, picture, read):
    path = write_tar(tmp_path / "x.tar", ("0.png", picture()), ("0.txt", b"no"), ("0.json", b'{"alt": "yes"}'))
    assert read(tar_shards([path], "alt"))[0] == {"x.tar/0": ("yes",)}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("0.txt", b"red")], "it has no picture, only .txt"),
        ([("0.png", b"x")], r"it has no caption (.txt or .json), only .png"),
        ([("0.png", b"x"), ("0.json", b'{"title": "red"}')], "its .json has no caption, only title"),
        ([("0.png", b"x"), ("0.json", b'["red"]')], "its .json must be an object with a caption, found ['red']"),
        ([("0.png", b"x"), ("0.txt", b"  ")], "its caption is empty"),
        ([("0.png", b"x"), ("0.txt", b"bl\xe5")], "its caption is not UTF-8 (byte 2)"),
    ],
)
def test_a_sample_that_is_none(tmp_path, picture, read, members, reason):
    path = write_tar(tmp_path / "x.tar", *members, ("1.png", picture()), ("1.txt", b"one"))
    assert read(tar_shards([path])) == ({"x.tar/1": ("one",)}, {"x.tar/0": reason})


def test_json_that_is_none(tmp_path, picture, read):
    path = write_tar(tmp_path / "x.tar", ("0.png", picture()), ("0.json", b"{"))
    assert "its .json cannot be read" in read(tar_shards([path]))[1]["x.tar/0"]


def test_a_stem_that_comes_again(tmp_path, picture, read):
    again = [("0.png", picture()), ("0.txt", b"again")]
    path = write_tar(tmp_path / "x.tar", *again, ("1.png", picture()), ("1.txt", b"one"), *again)
    shards = tar_shards([path])
    rows = list(shards[0].read())
    assert [row.key for row in rows] == ["x.tar/0", "x.tar/1", "x.tar/0"]
    assert rows[2].reason == "its stem occurs twice in the archive"


# A tar that is cut. Each member is a header of 512 bytes and its content in blocks of 512.


@pytest.fixture
def whole(tmp_path, picture) -> Path:
    members = [(f"{number}.{kind}", content) for number in range(3)
               for kind, content in (("png", picture()), ("txt", b"caption"))]  # fmt: skip
    return write_tar(tmp_path / "x.tar", *members)


@pytest.mark.parametrize(
    ("length", "kept"),
    [(6 * 1024, 3), (5 * 1024, 2), (4 * 1024, 2), (4 * 1024 + 100, 2), (4 * 1024 + 512 + 10, 2), (100, 0)],
    ids=["no end mark", "after a picture", "after a sample", "in a header", "in a picture", "at once"],
)
def test_a_tar_that_is_cut_gives_what_is_before_the_cut(whole, read, length, kept):
    whole.write_bytes(whole.read_bytes()[:length])
    captions, reasons = read(tar_shards([whole]))
    assert set(captions) == {f"x.tar/{number}" for number in range(kept)}
    assert any(f"the archive {whole} ends or breaks here" in reason for reason in reasons.values())


def test_a_compressed_tar_that_is_cut(tmp_path, read):
    noise = [(f"{number}.png", bytes(noise_bytes(number))) for number in range(40)]
    members = [pair for name, content in noise for pair in ((name, content), (name[:-3] + "txt", b"caption"))]
    path = write_tar(tmp_path / "x.tar.gz", *members, mode="w:gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    captions, reasons = read(tar_shards([path]))
    assert 5 < len(captions) < 35
    assert any("ends or breaks here" in reason for reason in reasons.values())


def noise_bytes(seed: int) -> list[int]:
    import random

    return [random.Random(seed * 10_000 + place).randrange(256) for place in range(3000)]


def test_no_tar_at_all(tmp_path, read):
    (tmp_path / "x.tar").write_text("hello " * 300)
    captions, reasons = read(tar_shards([tmp_path / "x.tar"]))
    assert (captions, len(reasons)) == ({}, 1)


# Which file is meant


def test_a_depth_map_beside_a_picture_is_not_the_picture(tmp_path, picture):
    members = [("0.depth.png", picture("black")), ("0.jpg", picture("red", "JPEG")), ("0.txt", b"red")]
    path = write_tar(tmp_path / "x.tar", *members)
    assert [row.image for row in tar_shards([path])[0].read()] == [picture("red", "JPEG")]


def test_two_pictures_of_one_stem_are_not_guessed(tmp_path, picture, read):
    path = write_tar(tmp_path / "x.tar", ("0.png", picture()), ("0.jpg", picture("red", "JPEG")), ("0.txt", b"red"))
    assert read(tar_shards([path])) == ({}, {"x.tar/0": "it has several pictures (.jpg, .png); keep one of them"})


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".tga", ".ppm", ".jp2", ".avif", ".PNG"])
def test_pictures_of_rarer_suffixes(tmp_path, picture, read, suffix):
    path = write_tar(tmp_path / "x.tar", (f"0{suffix}", picture()), ("0.TXT", b"red"))
    assert read(tar_shards([path])) == ({"x.tar/0": ("red",)}, {})


def test_classes(tmp_path, picture, read):
    path = write_tar(tmp_path / "x.tar", ("0.png", picture()), ("0.cls", b"polar_bear\n"))
    assert read(tar_shards([path], class_template="a {}")) == ({"x.tar/0": ("a polar bear",)}, {})
    assert "set `class_template`" in read(tar_shards([path]))[1]["x.tar/0"]


def test_files_of_the_system_are_no_data(tmp_path, picture, read):
    hidden = ["__MACOSX/0.png", "._0.png", ".hidden/1.png", "a/.DS_Store", "Thumbs.db"]
    members = [(name, b"x") for name in hidden]
    path = write_tar(tmp_path / "x.tar", *members, ("./0.png", picture()), ("./0.txt", b"red"))
    assert read(tar_shards([path])) == ({"x.tar/0": ("red",)}, {})
    kinds = count_members([path])
    assert kinds == {
        "archives": 1, "pictures": 1, "other files, .txt": 1, "hidden files and folders, files of the system": 5,
    }  # fmt: skip


def test_two_archives_of_one_name(tmp_path, picture):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write_tar(tmp_path / place / "0.tar", ("0.png", picture()), ("0.txt", place.encode()))
    for data in (str(tmp_path), str(tmp_path / "*" / "*.tar")):
        rows = list(load_collection(data).rows())
        assert [(row.key, row.captions[0]) for row in rows] == [("a/0.tar/0", "a"), ("b/0.tar/0", "b")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "its .json cannot be read"),
        (b'{"caption": "half \\ud83d"}', r"its caption holds '\ud83d', half of a character, which UTF-8 cannot hold"),
        (b'{"\\ud83d": 1}', r"its .json has no caption, only \ud83d"),
    ],
)
def test_json_from_strangers(tmp_path, picture, read, content, reason):
    path = write_tar(tmp_path / "x.tar", ("0.png", picture()), ("0.json", content))
    assert read(tar_shards([path]))[1]["x.tar/0"].startswith(reason)


def test_a_caption_of_utf_16_without_its_mark(tmp_path, picture, read):
    path = write_tar(tmp_path / "x.tar", ("0.png", picture()), ("0.txt", "red".encode("utf-16-le")))
    assert read(tar_shards([path]))[1]["x.tar/0"] == "its caption holds a NUL byte; is it text in UTF-8?"


def test_a_name_in_latin_1(tmp_path, picture):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for suffix, content in ((".png", picture()), (".txt", b"blue")):
            member = tarfile.TarInfo("bl\xe5" + suffix)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    rows = list(tar_shards([tmp_path / "x.tar"])[0].read())
    assert [row.key for row in rows] == [r"x.tar/bl\xe5"]


def test_a_separator_of_lines_inside_a_caption_survives(tmp_path, picture, read):
    path = write_tar(tmp_path / "x.tar", ("0.png", picture()), ("0.txt", "one\u2028two\u0085three\x0cfour".encode()))
    assert read(tar_shards([path]))[0] == {"x.tar/0": ("one two three four",)}
