"""Prepared sets: what is written, resumed, refused, and found to be of another set."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict, Image
from PIL import Image as PILImage

from data_prep import Collection, PreparedSet, TextConfig, Vocabulary, load_image_tokenizer, load_pictures, prepare
from training.errors import UserError
from training.files import read_json, write_json
from vq import VQVAE
from vq.pictures import to_pixel_values

TEXT_SIZE = 280


@pytest.fixture
def prepared(collection, tiny_vqvae, tmp_path) -> PreparedSet:
    return prepare(collection, tiny_vqvae, tmp_path / "data", "pictures", TextConfig(size=TEXT_SIZE))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def collection_of(train: list[str], held_out: list[str]) -> Collection:
    def rows(captions: list[str]) -> Dataset:
        pictures = [PILImage.new("RGB", (16, 16), "red") for _ in captions]
        columns = {"image": pictures, "caption": captions, "key": captions}
        return Dataset.from_dict(columns).cast_column("image", Image())

    return Collection(DatasetDict({"train": rows(train), "held_out": rows(held_out)}), "Drawn by hand.")


# What is written


def test_manifest(prepared, collection, tiny_vqvae):
    manifest = read_json(prepared.folder / "manifest.json")
    assert manifest["made_from"] == {
        "data": "pictures",
        "collection": collection.fingerprint(),
        "image_tokenizer": tiny_vqvae.fingerprint(),
        "text_size": TEXT_SIZE,
    }
    assert manifest["vocabulary"] == prepared.vocabulary.fingerprint()
    assert manifest["splits"] == {name: len(rows) for name, rows in collection.splits.items()}
    assert manifest["code_shape"] == [4, 4]
    captions = [caption for rows in collection.splits.values() for caption in rows["caption"][:]]
    assert manifest["longest_caption_tokens"] == max(map(len, prepared.vocabulary.encode_text(captions)))
    assert manifest["attribution"] is None
    assert manifest["seconds"]["prepare_data"] >= 0


def test_the_attribution_is_carried(tiny_vqvae, tmp_path):
    prepared = prepare(
        collection_of(["one", "two"], ["three"]), tiny_vqvae, tmp_path / "data", "hand", TextConfig(size=TEXT_SIZE)
    )
    assert prepared.manifest["attribution"] == "Drawn by hand."


def test_rows_hold_the_codes_row_by_row(prepared, collection, tiny_vqvae):
    for split, rows in collection.splits.items():
        pixel_values = to_pixel_values(load_pictures(rows, (16, 16)))
        codes = tiny_vqvae.encode(pixel_values)  # (N, 4, 4)
        by_hand = [[code for line in picture for code in line] for picture in codes.tolist()]
        assert prepared.rows[split]["codes"][:] == by_hand
        assert prepared.rows[split]["caption"][:] == rows["caption"][:]
        assert prepared.rows[split]["key"][:] == rows["key"][:]
    assert prepared.tokens_per_image == 16


def test_codes_are_as_diverse_as_the_pictures(prepared):
    assert len({tuple(codes) for codes in prepared.train["codes"][:]}) > 5


def test_only_held_out_rows_keep_their_picture(prepared, collection):
    assert prepared.train.column_names == ["caption", "key", "codes"]
    kept = load_pictures(prepared.held_out["held_out"], (16, 16))
    assert torch.equal(kept, load_pictures(collection.held_out, (16, 16)))


def test_the_image_tokenizer_is_kept(prepared, tiny_vqvae):
    assert prepared.load_image_tokenizer().fingerprint() == tiny_vqvae.fingerprint()


def test_held_out_captions_teach_no_tokens(tiny_vqvae, tmp_path):
    collection = collection_of(["red red red", "red red"], ["zebra zebra zebra zebra"])
    prepared = prepare(collection, tiny_vqvae, tmp_path / "data", "hand", TextConfig(size=TEXT_SIZE))
    known, unknown = prepared.vocabulary.encode_text(["red", "zebra"])
    assert len(known) == 1
    assert len(unknown) == len(" zebra")
    assert len(prepared.vocabulary.encode_text(["zebra"])[0]) <= prepared.manifest["longest_caption_tokens"]


def test_no_temporary_folder_is_left(prepared):
    assert [path.name for path in prepared.folder.parent.glob("data*")] == ["data"]


# Again, and elsewhere


def test_resume_returns_the_same(prepared, collection, tiny_vqvae):
    before = contents(prepared.folder)
    again = prepare(collection, tiny_vqvae, prepared.folder, "pictures", TextConfig(size=TEXT_SIZE), resume=True)
    assert again.manifest == prepared.manifest
    assert again.train["codes"][:] == prepared.train["codes"][:]
    assert contents(prepared.folder) == before


@pytest.mark.parametrize(("changed", "named"), [({"text_size": 270}, "text_size"), ({"data": "others"}, "data")])
def test_resume_with_other_settings(prepared, collection, tiny_vqvae, changed, named):
    before = contents(prepared.folder)
    settings = {"data": "pictures", "text_size": TEXT_SIZE} | changed
    with pytest.raises(UserError, match=f"holds another run: its {named} is"):
        prepare(collection, tiny_vqvae, prepared.folder, resume=True, **settings)
    assert contents(prepared.folder) == before


def test_resume_with_another_image_tokenizer(prepared, collection, other_vqvae):
    with pytest.raises(UserError, match="its image_tokenizer is"):
        prepare(collection, other_vqvae, prepared.folder, "pictures", TextConfig(size=TEXT_SIZE), resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_other_files_is_untouched(collection, tiny_vqvae, tmp_path, resume):
    output = tmp_path / "data"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="already holds files"):
        prepare(collection, tiny_vqvae, output, "pictures", TextConfig(size=TEXT_SIZE), resume)
    assert contents(output) == {"thesis.txt": b"years of work"}


def test_a_finished_set_is_not_written_over(prepared, collection, tiny_vqvae):
    before = contents(prepared.folder)
    with pytest.raises(UserError, match="already holds files"):
        prepare(collection, tiny_vqvae, prepared.folder, "pictures", TextConfig(size=TEXT_SIZE))
    assert contents(prepared.folder) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_killed_preparation_is_done_anew(collection, tiny_vqvae, tmp_path, resume):
    partial = tmp_path / "data.partial"
    (partial / "rows" / "train").mkdir(parents=True)
    (partial / "rows" / "train" / "data-00000-of-00001.arrow").write_bytes(b"half a file")
    (partial / "vocabulary").mkdir()
    prepared = prepare(collection, tiny_vqvae, tmp_path / "data", "pictures", TextConfig(size=TEXT_SIZE), resume)
    assert len(prepared.train) == len(collection.train)
    assert not partial.exists()


def test_an_unreadable_picture_leaves_no_set(picture_folder, collection, tiny_vqvae, tmp_path):
    (picture_folder / collection.held_out["key"][0]).write_text("not a picture")
    with pytest.raises(UserError, match="cannot be read"):
        prepare(collection, tiny_vqvae, tmp_path / "data", "pictures", TextConfig(size=TEXT_SIZE))
    assert not (tmp_path / "data").exists()


def test_a_small_image_tokenizer_folder(tmp_path):
    with pytest.raises(UserError, match="holds no finished image tokenizer"):
        load_image_tokenizer(tmp_path)


# Parts of another set


def assert_names_both(error: UserError, found: str, expected: str) -> None:
    assert found in str(error)
    assert expected in str(error)
    assert "do not belong together" in str(error)


def test_load_returns_what_was_prepared(prepared):
    loaded = PreparedSet.load(prepared.folder)
    assert loaded.manifest == prepared.manifest
    assert loaded.train["codes"][:] == prepared.train["codes"][:]
    assert loaded.vocabulary.fingerprint() == prepared.vocabulary.fingerprint()


def test_a_replaced_vocabulary(prepared):
    other = Vocabulary.train(["other words"] * 3, TEXT_SIZE, {"image": 16})
    shutil.rmtree(prepared.folder / "vocabulary")
    other.save_pretrained(prepared.folder / "vocabulary")
    with pytest.raises(UserError) as caught:
        PreparedSet.load(prepared.folder)
    assert_names_both(caught.value, other.fingerprint(), prepared.vocabulary.fingerprint())


def test_rows_of_another_image_tokenizer(prepared, collection, tiny_vqvae, other_vqvae, tmp_path):
    other = prepare(collection, other_vqvae, tmp_path / "other", "pictures", TextConfig(size=TEXT_SIZE))
    shutil.rmtree(prepared.folder / "rows" / "train")
    shutil.copytree(other.folder / "rows" / "train", prepared.folder / "rows" / "train")
    with pytest.raises(UserError, match="rows/train") as caught:
        PreparedSet.load(prepared.folder)
    assert_names_both(caught.value, other_vqvae.fingerprint(), tiny_vqvae.fingerprint())


def test_a_replaced_image_tokenizer(prepared, tiny_vqvae, other_vqvae):
    other_vqvae.save_pretrained(prepared.folder / "image_tokenizer")
    with pytest.raises(UserError, match="image_tokenizer") as caught:
        PreparedSet.load(prepared.folder).load_image_tokenizer()
    assert_names_both(caught.value, other_vqvae.fingerprint(), tiny_vqvae.fingerprint())


def test_a_missing_split(prepared):
    shutil.rmtree(prepared.folder / "rows" / "held_out")
    with pytest.raises(UserError, match=r"rows/held_out is missing; manifest\.json expects"):
        PreparedSet.load(prepared.folder)


def test_another_number_of_rows(prepared):
    manifest = json.loads((prepared.folder / "manifest.json").read_text())
    manifest["splits"]["train"] += 1
    write_json(prepared.folder / "manifest.json", manifest)
    count = len(prepared.train)
    with pytest.raises(UserError, match=rf"rows/train holds {count} rows, manifest\.json says {count + 1}"):
        PreparedSet.load(prepared.folder)


def test_no_prepared_set(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        PreparedSet.load(tmp_path)


def test_a_loaded_image_tokenizer_makes_the_same_codes(prepared, tiny_vqvae):
    loaded: VQVAE = prepared.load_image_tokenizer()
    pixel_values = torch.rand(3, 3, 16, 16) * 2 - 1
    assert torch.equal(loaded.encode(pixel_values), tiny_vqvae.encode(pixel_values))
    assert not loaded.training
