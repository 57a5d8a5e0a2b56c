"""Opening a prepared set: what was prepared, and what is found to be changed, missing or of another set."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vqlm.data_prep import Collection, PreparedSet, TextConfig, Vocabulary, load_collection, prepare
from vqlm.data_prep.prepared_set import pictures_of
from vqlm.data_prep.sources.rows import Row, Shard
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json, write_json
from vqlm.vq import VQVAE, load_image_tokenizer

TEXT = TextConfig(size=280)


def assert_names_both(error: UserError, found: str, expected: str) -> None:
    assert found in str(error)
    assert expected in str(error)
    assert "do not belong together" in str(error)


def test_load_returns_what_was_prepared(prepared):
    loaded = PreparedSet.load(prepared.folder)
    assert loaded.manifest == prepared.manifest
    assert loaded.train["codes"][:] == prepared.train["codes"][:]
    assert loaded.vocabulary.fingerprint() == prepared.vocabulary.fingerprint()


def test_parts_of_codes(prepared):
    parts = list(prepared.code_parts(prepared.train, 5))
    assert [len(part) for part in parts[:-1]] == [5] * (len(parts) - 1)
    assert torch.equal(torch.cat(parts), prepared.codes_of(prepared.train))


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [change_a_byte, cut])
def test_a_shard_that_was_changed_is_named(prepared, damage):
    path = prepared.folder / "shards" / "000000" / "train.arrow"
    damage(path)
    with pytest.raises(UserError, match=rf"{path} was changed after it was written: its SHA-256 is .* `resume`"):
        PreparedSet.load(prepared.folder)


def test_a_shard_that_was_changed_can_be_made_anew(prepared, collection, tiny_vqvae):
    before = prepared.train["codes"][:]
    change_a_byte(prepared.folder / "shards" / "000000" / "train.arrow")
    shutil.rmtree(prepared.folder / "shards" / "000000")
    (prepared.folder / "manifest.json").unlink()
    again = prepare(collection, tiny_vqvae, prepared.folder, "pictures", TEXT, num_workers=0, resume=True)
    assert again.train["codes"][:] == before


def test_rows_of_another_image_tokenizer(prepared, collection, other_vqvae, tmp_path):
    other = prepare(collection, other_vqvae, tmp_path / "other", "pictures", TEXT, num_workers=0)
    shutil.rmtree(prepared.folder / "shards")
    shutil.copytree(other.folder / "shards", prepared.folder / "shards")
    with pytest.raises(UserError, match=r"train\.arrow was changed after it was written"):
        PreparedSet.load(prepared.folder)


@pytest.mark.parametrize("verify", [True, False])
def test_a_missing_shard(prepared, verify):
    (prepared.folder / "shards" / "000000" / "held_out.arrow").unlink()
    with pytest.raises(UserError, match=r"held_out\.arrow is missing, which manifest\.json names"):
        PreparedSet.load(prepared.folder, verify)


def test_a_replaced_vocabulary(prepared):
    other = Vocabulary.train(["other words"] * 3, 280, {"image": 16})
    shutil.rmtree(prepared.folder / "vocabulary")
    other.save_pretrained(prepared.folder / "vocabulary")
    with pytest.raises(UserError) as caught:
        PreparedSet.load(prepared.folder)
    assert_names_both(caught.value, other.fingerprint(), prepared.vocabulary.fingerprint())


def test_a_replaced_image_tokenizer(prepared, tiny_vqvae, other_vqvae):
    other_vqvae.save_pretrained(prepared.folder / "image_tokenizer")
    with pytest.raises(UserError, match="image_tokenizer") as caught:
        PreparedSet.load(prepared.folder).load_image_tokenizer()
    assert_names_both(caught.value, other_vqvae.fingerprint(), tiny_vqvae.fingerprint())


def test_a_set_of_another_version(prepared):
    manifest = read_json(prepared.folder / "manifest.json")
    write_json(prepared.folder / "manifest.json", manifest | {"form": 1})
    with pytest.raises(UserError, match="prepared by another version of vqlm; prepare it again"):
        PreparedSet.load(prepared.folder)


def test_no_prepared_set(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json is missing"):
        PreparedSet.load(tmp_path)


def test_a_small_image_tokenizer_folder(tmp_path):
    with pytest.raises(UserError, match="holds no finished image tokenizer"):
        load_image_tokenizer(tmp_path)


def test_a_loaded_image_tokenizer_makes_the_same_codes(prepared, tiny_vqvae):
    loaded: VQVAE = prepared.load_image_tokenizer()
    pixel_values = torch.rand(3, 3, 16, 16) * 2 - 1
    assert torch.equal(loaded.encode(pixel_values), tiny_vqvae.encode(pixel_values))
    assert not loaded.training


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_arrays_come_back_as_they_were(tiny_vqvae, tmp_path, dtype):
    values = (np.random.default_rng(0).random((8, 3, 16, 16)) * 255).astype(np.uint8)
    values = values if dtype == np.uint8 else (values / 255).astype(np.float32)
    np.savez(tmp_path / "x.npz", values=values, captions=[f"{number}" for number in range(8)])
    collection = load_collection(str(tmp_path / "x.npz"))
    held_out = prepare(collection, tiny_vqvae, tmp_path / "data", "x", TEXT, num_workers=0).held_out["held_out"]
    pictures = pictures_of(held_out)
    assert pictures.dtype == torch.from_numpy(values).dtype
    assert np.array_equal(pictures.numpy(), values[[int(key) for key in held_out["key"]]])


def test_prompts_that_are_also_trained_on(tiny_vqvae, tmp_path):
    """Of the held-out first captions, "A cat." and "dog" are trained on in some form, "owl" is not."""
    train, held_out = [("a cat", "x"), ("dog", "A  Cat")], [("A cat.",), ("dog", "owl"), ("owl", "dog")]
    array = np.full((3, 16, 16), 200, np.uint8)
    rows = [Row(str(number), array, captions) for number, captions in enumerate(train + held_out)]
    splits = {row.key: "train" if number < 2 else "held_out" for number, row in enumerate(rows)}
    collection = Collection([Shard("hand", lambda: iter(rows), "")], splits=splits, array_shape=(3, 16, 16))
    prepared = prepare(collection, tiny_vqvae, tmp_path / "data", "hand", TEXT, num_workers=0)
    assert prepared.seen_prompts() == {"held_out": 2}
