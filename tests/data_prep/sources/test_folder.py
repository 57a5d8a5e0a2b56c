"""A folder of captioned pictures: every place of captions, what is wrong with one row, what is wrong with the whole."""

import os

import pyarrow
import pyarrow.parquet
import pytest
from captioned_folder import draw, folder_shards, write_csv, write_jsonl
from PIL import Image

from vqlm.training.errors import UserError

# Where captions are written


@pytest.mark.parametrize("column", ["caption", "text"])
def test_captions_of_a_csv(folder, read, column):
    write_csv(folder, f"file_name,{column}", 'b.png,"a red, round  thing"', "a.png,blå ♥")
    captions, _ = read(folder_shards(folder))
    assert captions == {"a.png": ("blå ♥",), "b.png": ("a red, round thing",)}
    assert list(captions) == ["a.png", "b.png"]


def test_a_csv_as_excel_writes_it(folder, read):
    text = "file_name,caption\r\na.png,one\r\nb.png,two\r\n"
    (folder / "metadata.csv").write_text(text, encoding="utf-8-sig", newline="")
    assert read(folder_shards(folder)) == ({"a.png": ("one",), "b.png": ("two",)}, {})


def test_captions_of_a_jsonl_may_be_lists(folder, read):
    write_jsonl(folder, {"file_name": "b.png", "caption": ["two", " ", "deux"]}, {"file_name": "a.png", "text": "x"})
    captions, reasons = read(folder_shards(folder))
    assert captions == {"b.png": ("two", "deux")}
    assert reasons == {"a.png": "its caption is empty"}  # the first line's columns count for all


def test_captions_of_a_parquet(folder, read):
    table = pyarrow.table({"file_name": ["a.png", "b.png"], "caption": [["one", "uno"], ["two"]]})
    pyarrow.parquet.write_table(table, folder / "metadata.parquet")
    assert read(folder_shards(folder))[0] == {"a.png": ("one", "uno"), "b.png": ("two",)}


def test_a_picture_named_twice_has_two_captions(folder, read):
    write_csv(folder, "file_name,caption", "a.png,one", "b.png,two", "a.png,three")
    assert read(folder_shards(folder))[0] == {"a.png": ("one", "three"), "b.png": ("two",)}


def test_metadata_of_inner_folders_names_their_own_pictures(folder, read):
    for place in ("x", "y"):
        draw(folder, [f"{place}/a.png"])
        write_csv(folder / place, "file_name,caption", f"a.png,in {place}")
    assert read(folder_shards(folder))[0] == {"x/a.png": ("in x",), "y/a.png": ("in y",)}


def test_columns_of_other_names_may_be_asked_for(folder, read):
    write_csv(folder, "path,alt,caption", "a.png,one,no", "b.png,two,no")
    assert read(folder_shards(folder, None, ("path", "alt")))[0] == {"a.png": ("one",), "b.png": ("two",)}


def test_every_line_of_a_text_beside_a_picture_is_a_caption(folder, read):
    draw(folder, ["deep/C.JPG"])
    for stem, caption in {"a": " one\n\nuno\n", "b": "two", "deep/C": "three"}.items():
        (folder / f"{stem}.txt").write_text(caption, encoding="utf-8")
    assert read(folder_shards(folder))[0] == {"a.png": ("one", "uno"), "b.png": ("two",), "deep/C.JPG": ("three",)}


@pytest.mark.parametrize("place", ["", "Images/"])
def test_flickr8k_as_it_is_handed_on(tmp_path, read, place):
    draw(tmp_path, [f"{place}1.jpg", f"{place}2.jpg"])
    lines = ["image,caption", "1.jpg,A dog , and a cat .", '1.jpg,"""Two"" of them, again"', "2.jpg,A girl ."]
    (tmp_path / "captions.txt").write_text("\n".join(lines))
    assert read(folder_shards(tmp_path))[0] == {
        f"{place}1.jpg": ("A dog , and a cat .", '"Two" of them, again'),
        f"{place}2.jpg": ("A girl .",),
    }


def test_flickr8k_with_semicolons(tmp_path, read):
    draw(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "captions.csv").write_text("image;caption\n1.jpg;A dog, a cat; both\n2.jpg;A girl\n")
    assert read(folder_shards(tmp_path))[0] == {"1.jpg": ("A dog, a cat; both",), "2.jpg": ("A girl",)}


def test_flickr8k_as_it_was_published(tmp_path, read):
    draw(tmp_path, ["1.jpg", "2.jpg"])
    lines = ["1.jpg#0\tA dog , a cat .", "1.jpg#1\tTwo .", "2.jpg#0\tA girl ."]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(lines))
    assert read(folder_shards(tmp_path))[0] == {"1.jpg": ("A dog , a cat .", "Two ."), "2.jpg": ("A girl .",)}


def test_class_folders_with_a_template(tmp_path, read):
    draw(tmp_path, ["cat/1.png", "polar_bear/1.png"])
    captions, _ = read(folder_shards(tmp_path, "a photo of a {}"))
    assert captions == {"cat/1.png": ("a photo of a cat",), "polar_bear/1.png": ("a photo of a polar bear",)}


# What is wrong with one row


def test_a_missing_picture_is_a_row_that_cannot_be_used(folder, read):
    write_csv(folder, "file_name,caption", "a.png,one", "gone.png,two")
    captions, reasons = read(folder_shards(folder))
    assert captions == {"a.png": ("one",)}
    assert reasons == {"gone.png": f"it is named in the captions and is not in {folder}"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "it has no caption: there is no .txt of its name beside it"),
        (b"", "its caption is empty"),
        (b"  \n ", "its caption is empty"),
        ("blå".encode("latin-1"), "its caption is not UTF-8 (byte 2)"),
    ],
)
def test_a_bad_text_beside_a_picture(folder, read, content, reason):
    (folder / "a.txt").write_text("one")
    if content is not None:
        (folder / "b.txt").write_bytes(content)
    assert read(folder_shards(folder)) == ({"a.png": ("one",)}, {"b.png": reason})


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (None, "its caption is empty"),
        ("", "its caption is empty"),
        (" \u200b\ufeff\u2060\n\x7f", "its caption is empty"),
        (7, "its caption must be text, found 7"),
    ],
)
def test_a_caption_that_is_none(folder, read, caption, reason):
    write_jsonl(folder, {"file_name": "a.png", "caption": "one"}, {"file_name": "b.png", "caption": caption})
    assert read(folder_shards(folder)) == ({"a.png": ("one",)}, {"b.png": reason})


# What is wrong with the whole


def test_no_captions(folder):
    with pytest.raises(UserError, match=r"2 pictures without a caption; write metadata\.csv .* `class_template`"):
        folder_shards(folder)


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="holds no pictures"):
        folder_shards(tmp_path)


def test_a_caption_with_a_bare_comma(folder):
    write_csv(folder, "file_name,caption", "a.png,a cat, asleep", "b.png,two")
    with pytest.raises(UserError, match="too many commas; put its caption in double quotes"):
        folder_shards(folder)


def test_wrong_columns_are_named(folder):
    write_csv(folder, "file_name,title", "a.png,one", "b.png,two")
    with pytest.raises(UserError, match=r"caption \(or text\), found file_name, title; .* `caption_column`"):
        folder_shards(folder)


def test_a_csv_without_rows(folder):
    write_csv(folder, "file_name,caption")
    with pytest.raises(UserError, match=r"metadata\.csv holds no rows"):
        folder_shards(folder)


def test_a_csv_that_is_not_utf8(folder):
    (folder / "metadata.csv").write_bytes("file_name,caption\na.png,blå\nb.png,two\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"metadata\.csv.*UTF-8"):
        folder_shards(folder)


@pytest.mark.parametrize("line", ['{"file_name": "b.png", ', "7", '["b.png", "two"]'])
def test_a_broken_line(folder, line):
    write_jsonl(folder, {"file_name": "a.png", "caption": "one"}, line)
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 2 is not"):
        folder_shards(folder)


def test_a_parquet_that_is_none(folder):
    (folder / "metadata.parquet").write_text("file_name,caption")
    with pytest.raises(UserError, match=r"metadata\.parquet cannot be read as Parquet"):
        folder_shards(folder)


def test_a_captions_file_of_other_columns(folder):
    (folder / "captions.txt").write_text("a.png: one\nb.png: two\n")
    with pytest.raises(UserError, match="must begin with the line image,caption; it begins with 'a.png: one'"):
        folder_shards(folder)


@pytest.mark.parametrize(("template", "message"), [("a photo", "must hold {}"), ("a {}", r"a\.png lies in no class")])
def test_a_template_that_does_not_fit(folder, template, message):
    with pytest.raises(UserError, match=message):
        folder_shards(folder, template)


def test_the_stamp_changes_with_a_caption_and_with_a_file(folder):
    write_csv(folder, "file_name,caption", "a.png,one", "b.png,two")
    before = folder_shards(folder)[0].stamp
    assert folder_shards(folder)[0].stamp == before
    write_csv(folder, "file_name,caption", "a.png,one", "b.png,three")
    after = folder_shards(folder)[0].stamp
    Image.new("RGB", (200, 2)).save(folder / "a.png")
    assert len({before, after, folder_shards(folder)[0].stamp}) == 3


# Captions of every form of text


SEPARATORS = "one\u2028two\u0085three\x0cfour\x1dfive"


def test_separators_of_lines_inside_a_csv_survive(folder, read):
    write_csv(folder, "file_name,caption", f"a.png,{SEPARATORS}", "b.png,two")
    assert read(folder_shards(folder))[0] == {"a.png": ("one two three four five",), "b.png": ("two",)}


def test_separators_of_lines_inside_flickr8k_survive(folder, read):
    (folder / "captions.txt").write_text(f"image,caption\na.png,{SEPARATORS}\nb.png,two\n", encoding="utf-8")
    assert read(folder_shards(folder))[0] == {"a.png": ("one two three four five",), "b.png": ("two",)}
    (folder / "captions.txt").unlink()
    (folder / "F.token.txt").write_text(f'a.png#0\t{SEPARATORS}\nb.png#0\t"two\n', encoding="utf-8")
    assert read(folder_shards(folder))[0] == {"a.png": ("one two three four five",), "b.png": ('"two',)}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " | "])
def test_delimiters(folder, read, delimiter):
    rows = [["file_name", "width", "caption"], ["a.png", "2", '"red, round; thing"'], ["b.png", "2", "two"]]
    write_csv(folder, *(delimiter.join(row) for row in rows))
    assert read(folder_shards(folder))[0] == {"a.png": ("red, round; thing",), "b.png": ("two",)}


def test_a_space_after_the_comma(folder, read):
    write_csv(folder, "file_name, caption", 'a.png, "red, round"', "b.png, two")
    assert read(folder_shards(folder)) == ({"a.png": ("red, round",), "b.png": ("two",)}, {})


def test_a_caption_of_200_000_characters(folder, read):
    write_csv(folder, "file_name,caption", f"a.png,{'x' * 200_000}", "b.png,two")
    assert len(read(folder_shards(folder))[0]["a.png"][0]) == 200_000


def test_a_caption_of_several_lines_in_quotes(folder, read):
    (folder / "metadata.csv").write_text('file_name,caption\r\na.png,"one\r\n\r\nmore"\r\nb.png,two', newline="")
    assert read(folder_shards(folder))[0] == {"a.png": ("one more",), "b.png": ("two",)}


def test_blank_rows_of_a_spreadsheet_are_none(folder, read):
    write_csv(folder, "file_name,caption,,", "a.png,one,,", ",,,", "", "b.png,two,,")
    assert read(folder_shards(folder)) == ({"a.png": ("one",), "b.png": ("two",)}, {})


def test_a_quote_that_never_ends_does_not_swallow_the_rest(folder):
    write_csv(folder, "file_name,caption", 'a.png,"one', "b.png,two")
    with pytest.raises(UserError, match=r"metadata\.csv, line 2 is not valid CSV \(unexpected end of data\)"):
        folder_shards(folder)


def test_a_quote_in_the_middle_of_a_field(folder):
    write_csv(folder, "file_name,caption", "a.png,one", 'b.png,"two" of them')
    with pytest.raises(UserError, match=r"metadata\.csv, line 3 is not valid CSV \(.*write each quote inside it twice"):
        folder_shards(folder)


def test_a_row_that_names_no_file(folder, read):
    write_csv(folder, "file_name,caption", "a.png,one", ",two")
    assert read(folder_shards(folder)) == (
        {"a.png": ("one",)}, {"metadata.csv, line 3": "it names no file, found ''"},
    )  # fmt: skip


def test_json_that_is_nested_deeply(folder):
    write_jsonl(folder, {"file_name": "a.png", "caption": "one"}, "[" * 100_000)
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 2 is not JSON"):
        folder_shards(folder)


def test_half_a_character_in_a_caption(folder, read):
    write_jsonl(folder, {"file_name": "a.png", "caption": "cut \ud83d"}, {"file_name": "b.png", "caption": "two"})
    captions, reasons = read(folder_shards(folder))
    assert captions == {"b.png": ("two",)}
    assert "half of a character" in reasons["a.png"]


def test_the_stamp_changes_with_a_file_of_the_same_size(folder):
    write_csv(folder, "file_name,caption", "a.png,one", "b.png,two")
    before = folder_shards(folder)[0].stamp
    status = (folder / "a.png").stat()
    os.utime(folder / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert folder_shards(folder)[0].stamp != before
