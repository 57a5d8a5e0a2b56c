"""Prepared sets: what is written, and what cannot be used."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vqlm.data_prep import (
    Collection,
    CollectionConfig,
    PreparedSet,
    TextConfig,
    ViewConfig,
    encoding as encoding_module,
    load_collection,
    load_pictures,
    prepare,
)  # fmt: skip
from vqlm.data_prep.collections.sides import median_side
from vqlm.data_prep.encoding import ShardEncoder, code_type
from vqlm.data_prep.prepared_set import pictures_of
from vqlm.data_prep.sources.rows import Row, Shard, Unusable
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json
from vqlm.vq import VQVAE
from vqlm.vq.pixels import to_pixel_values

TEXT = TextConfig(size=280)


def make(
    collection: Collection, image_tokenizer: VQVAE, output: Path, data: str = "pictures", **settings
) -> PreparedSet:
    return prepare(collection, image_tokenizer, output, data, **({"text": TEXT, "num_workers": 0} | settings))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if name.startswith("shards/")}


def collection_of(train: list[str], held_out: list[str]) -> Collection:
    picture = np.full((3, 16, 16), 200, np.uint8)
    rows = [Row(caption, picture, (caption,)) for caption in train + held_out]
    splits = {caption: "held_out" if caption in held_out else "train" for caption in train + held_out}
    shard = Shard("hand", lambda: iter(rows), "")
    return Collection([shard], splits=splits, array_shape=(3, 16, 16), attribution="Drawn by hand.")


# What is written


def test_manifest(prepared, collection, tiny_vqvae):
    manifest = read_json(prepared.folder / "manifest.json")
    made_from = manifest["made_from"]
    assert made_from["data"] == "pictures"
    assert made_from["collection"] == collection.fingerprint()
    assert made_from["image_tokenizer"] == tiny_vqvae.fingerprint()
    assert made_from["text"]["size"] == 280
    assert made_from["codebook_sizes"] == {"image": 16}
    assert made_from["views"] == {"views": 1, "flip": 0.0, "crop": 1.0}
    assert manifest["vocabulary"] == prepared.vocabulary.fingerprint()
    assert manifest["splits"] == {split: len(list(collection.rows(split))) for split in ("train", "held_out")}
    assert (manifest["code_shape"], manifest["tokens_per_image"], manifest["skipped"]) == ([4, 4], 16, 0)
    lengths = list(map(len, prepared.vocabulary.encode_text([row.captions[0] for row in collection.rows()])))
    assert manifest["longest_caption_tokens"] == max(lengths)
    assert manifest["caption_lengths"] == {str(length): lengths.count(length) for length in sorted(set(lengths))}
    assert manifest["median_side"] == min(Image.open(next(collection.rows()).image).size)
    assert manifest["attribution"] is None
    assert manifest["seconds"]["prepare_data"] >= 0
    assert (prepared.folder / "skipped.jsonl").read_text() == ""


def test_the_first_line_says_processes_device_and_precision(collection, tiny_vqvae, tmp_path, capsys, monkeypatch):
    make(collection, tiny_vqvae, tmp_path / "fp32")
    assert "[prepare] 1 process on cpu in fp32\n" in capsys.readouterr().err
    monkeypatch.setenv("MASTER_PORT", "29500")  # as `accelerate launch --cpu --num_processes 2` has it
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    make(collection, tiny_vqvae, tmp_path / "bf16", mixed_precision="bf16")
    assert "[prepare] 1 process on cpu in bf16; accelerate launch was asked for several" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "message"), [("ACCELERATE_USE_FSDP", "asks for FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")]
)
def test_what_no_stage_of_whole_models_does_is_refused(
    collection, tiny_vqvae, tmp_path, monkeypatch, variable, message
):
    monkeypatch.setenv(variable, "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UserError, match=message):
        make(collection, tiny_vqvae, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("sizes", "drawings", "expected"),
    [
        ([(50, 70), (90, 60), (40, 40), (20, 300)], 0, 45),
        ([(20, 20), (40, 40)], 3, None),
        ([(20, 20), (40, 40)], 1, 30),
    ],
)
def test_the_median_side_of_pictures(tmp_path, sizes, drawings, expected):
    rows: list[Row | Unusable] = [Unusable("none", "it is missing"), Row("broken", b"not a picture", ("a",))]
    for number, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
        rows.append(Row(str(number), tmp_path / f"{number}.png", ("a",)))
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    rows += [Row(f"drawing {number}", svg, ("a",)) for number in range(drawings)]
    assert median_side(Collection([], splits={}), rows) == expected


def test_arrays_have_no_median_side(tiny_vqvae, tmp_path):
    prepared = make(collection_of(["one", "two"], ["three"]), tiny_vqvae, tmp_path / "data")
    assert prepared.manifest["median_side"] is None


def test_the_attribution_is_carried(tiny_vqvae, tmp_path):
    prepared = make(collection_of(["one", "two"], ["three"]), tiny_vqvae, tmp_path / "data")
    assert prepared.manifest["attribution"] == "Drawn by hand."


def test_rows_hold_the_codes_row_by_row(prepared, collection, tiny_vqvae):
    loaded = load_pictures(collection, (16, 16))
    for split, pictures in (("train", loaded.train), ("held_out", loaded.held_out)):
        codes = tiny_vqvae.encode(to_pixel_values(pictures))  # (N, 4, 4)
        by_hand = [[code for line in picture for code in line] for picture in codes.tolist()]
        rows = list(collection.rows(split))
        assert prepared.rows[split]["codes"][:] == by_hand
        assert prepared.codes_of(prepared.rows[split]).tolist() == by_hand
        assert prepared.rows[split]["captions"][:] == [list(row.captions) for row in rows]
        assert prepared.rows[split]["key"][:] == [row.key for row in rows]
        counted = prepared.vocabulary.encode_text([row.captions[0] for row in rows])
        assert prepared.rows[split]["caption_tokens"][:] == [[len(ids)] for ids in counted]
    assert prepared.tokens_per_image == 16


def test_codes_are_as_diverse_as_the_pictures(prepared):
    assert len({tuple(codes) for codes in prepared.train["codes"][:]}) > 5


def test_only_held_out_rows_keep_their_picture(prepared, collection):
    assert "image" not in prepared.train.column_names
    kept = pictures_of(prepared.held_out["held_out"])
    assert torch.equal(kept, load_pictures(collection, (16, 16)).held_out)


def test_of_many_held_out_rows_some_keep_their_picture(in_parts, tiny_vqvae, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding_module, "KEPT_PICTURES", 6)
    in_parts.splits = {row.key: "held_out" if number % 4 else "train" for number, row in enumerate(in_parts.rows())}
    prepared = make(in_parts, tiny_vqvae, tmp_path / "data")
    assert len(prepared.held_out["held_out"]) == 18
    shown = prepared.pictured("held_out", 100)
    assert len(shown) == 6  # one a shard
    assert shown["key"][:] == prepared.held_out["held_out"]["key"][::3]
    assert len(prepared.pictured("held_out", 4)) == 4


def test_every_view_is_encoded_and_the_first_is_the_plain_one(collection, prepared, tiny_vqvae, tmp_path):
    views = ViewConfig(views=3, crop=0.5)
    several = make(collection, tiny_vqvae, tmp_path / "views", views=views)
    assert several.num_views == 3
    codes = np.array(several.train["codes"][:]).reshape(len(several.train), 3, 16)
    assert codes[:, 0].tolist() == prepared.train["codes"][:]
    assert (codes[:, 1] != codes[:, 0]).any()
    assert (codes[:, 1] != codes[:, 2]).any()
    assert several.codes_of(several.train).tolist() == codes[:, 0].tolist()


@pytest.mark.parametrize(("size", "kind"), [(256, "uint8"), (257, "uint16"), (2**16, "uint16"), (2**16 + 1, "uint32")])
def test_codes_take_the_smallest_type(size, kind):
    assert code_type(size) == kind


def test_the_image_tokenizer_is_kept(prepared, tiny_vqvae):
    assert prepared.load_image_tokenizer().fingerprint() == tiny_vqvae.fingerprint()


def test_held_out_captions_teach_no_tokens(tiny_vqvae, tmp_path):
    collection = collection_of(["red red red", "red red"], ["zebra zebra zebra zebra"])
    prepared = make(collection, tiny_vqvae, tmp_path / "data")
    known, unknown = prepared.vocabulary.encode_text(["red", "zebra"])
    assert len(known) == 1
    assert len(unknown) == len(" zebra")
    assert len(prepared.vocabulary.encode_text(["zebra"])[0]) <= prepared.manifest["longest_caption_tokens"]


def test_workers_make_the_same_rows(in_parts, picture_folder, tiny_vqvae, tmp_path):
    make(in_parts, tiny_vqvae, tmp_path / "alone")
    make(in_parts, tiny_vqvae, tmp_path / "workers", num_workers=2)
    assert shards_of(tmp_path / "alone") == shards_of(tmp_path / "workers")
    assert len(shards_of(tmp_path / "alone")) > 12


def test_more_workers_than_shards_make_the_same_rows(collection, tiny_vqvae, tmp_path):
    make(collection, tiny_vqvae, tmp_path / "alone")
    make(collection, tiny_vqvae, tmp_path / "workers", num_workers=3)
    assert shards_of(tmp_path / "alone") == shards_of(tmp_path / "workers")
    assert len(collection.shards) < 3


def test_further_modalities_have_ranges_of_their_own(collection, tiny_vqvae, tmp_path):
    prepared = make(collection, tiny_vqvae, tmp_path / "data", modalities={"series": 8})
    assert prepared.vocabulary.modalities["series"].size == 8
    with pytest.raises(UserError, match="`modalities` must not name 'image'"):
        make(collection, tiny_vqvae, tmp_path / "other", modalities={"image": 8})


# What cannot be used


@pytest.fixture
def damaged(picture_folder) -> Path:
    """Two of 24 pictures cannot be used."""
    (picture_folder / "red-square-2.png").write_text("no picture")
    (picture_folder / "blue-circle-4.png").write_bytes(b"")
    return picture_folder


def test_what_is_unusable_is_skipped_and_listed(damaged, tiny_vqvae, tmp_path):
    collection = load_collection(str(damaged), config=CollectionConfig(max_skipped=0.1))
    prepared = make(collection, tiny_vqvae, tmp_path / "data")
    assert sum(prepared.manifest["splits"].values()) == 22
    assert prepared.manifest["skipped"] == 2
    lines = [json.loads(line) for line in (prepared.folder / "skipped.jsonl").read_text().splitlines()]
    assert lines == [
        {"key": "blue-circle-4.png", "reason": "the file is empty (0 bytes)"},
        {"key": "red-square-2.png", "reason": "it is not a picture in a format that is read"},
    ]


def test_too_much_that_is_unusable_is_found_before_anything_is_written(damaged, tiny_vqvae, tmp_path):
    with pytest.raises(UserError, match=r"2 of 24 pictures cannot be used.*blue-circle-4\.png: the file is empty"):
        make(load_collection(str(damaged)), tiny_vqvae, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_too_much_that_the_sample_missed_stops_and_may_be_allowed(damaged, tiny_vqvae, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["vqlm.data_prep.preparation"], "check_sample", lambda *_: None)
    with pytest.raises(UserError, match=r"2 of 24 pictures cannot be used, .*All are listed in .*skipped\.jsonl"):
        make(load_collection(str(damaged)), tiny_vqvae, tmp_path / "data")
    assert len((tmp_path / "data" / "skipped.jsonl").read_text().splitlines()) == 2
    allowed = load_collection(str(damaged), config=CollectionConfig(max_skipped=0.1))
    assert make(allowed, tiny_vqvae, tmp_path / "data", resume=True).manifest["skipped"] == 2


def test_six_bad_pictures_at_the_beginning_are_judged_by_the_whole(tiny_vqvae, tmp_path, monkeypatch):
    """6 of the first 32, but of 1000."""
    monkeypatch.setattr(sys.modules["vqlm.data_prep.preparation"], "CHECKED_ROWS", 5)
    picture = np.full((3, 16, 16), 200, np.uint8)
    rows = [Row(str(number), picture, ("x",)) for number in range(1000)]
    rows[2:8] = [Unusable(str(number), "torn") for number in range(2, 8)]
    shards = [Shard(str(at), lambda at=at: iter(rows[at : at + 100]), "") for at in range(0, 1000, 100)]
    collection = Collection(shards, array_shape=(3, 16, 16))
    assert make(collection, tiny_vqvae, tmp_path / "data").manifest["skipped"] == 6
    rows[::16] = [Unusable(str(number), "torn") for number in range(0, 1000, 16)]
    with pytest.raises(UserError, match="69 of 1000 pictures cannot be used"):
        make(Collection(shards, array_shape=(3, 16, 16)), tiny_vqvae, tmp_path / "other")


def test_what_is_broken_as_a_whole_is_found_at_once(tiny_vqvae, tmp_path):
    picture = np.full((3, 16, 16), 200, np.uint8)
    rows = [Unusable(str(n), "torn") if n % 3 else Row(str(n), picture, ("x",)) for n in range(1000)]
    collection = Collection([Shard("x", lambda: iter(rows), "")], array_shape=(3, 16, 16))
    with pytest.raises(UserError, match="21 of 32 pictures cannot be used"):
        make(collection, tiny_vqvae, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_captions_of_the_tokenizer_are_a_sample_of_all(monkeypatch):
    module = sys.modules["vqlm.data_prep.preparation"]
    monkeypatch.setattr(module, "BPE_CAPTIONS", 500)
    rows = [Row(str(n), np.zeros((3, 2, 2), np.uint8), (f"class {n // 500}",)) for n in range(5000)]
    collection = Collection([Shard("x", lambda: iter(rows), "")], array_shape=(3, 2, 2))
    captions = module._captions(collection, 0)
    assert len(captions) == 500
    counts = Counter(captions)
    assert len(counts) == 10
    assert all(25 < count < 80 for count in counts.values())  # 50 each on average


@pytest.mark.parametrize("wrong", [{"text": TextConfig(size=20)}, {"modalities": {"no word": 3}}])
def test_a_typo_burns_no_folder(collection, tiny_vqvae, tmp_path, wrong):
    with pytest.raises(UserError):
        make(collection, tiny_vqvae, tmp_path / "data", **wrong)
    make(collection, tiny_vqvae, tmp_path / "data")


def test_a_key_that_comes_twice_is_kept_once(tiny_vqvae, tmp_path):
    collection = collection_of(["one", "two", "one"], ["three"])
    collection.config = CollectionConfig(max_skipped=0.5)
    prepared = make(collection, tiny_vqvae, tmp_path / "data")
    assert prepared.train["key"][:] == ["one", "two"]
    assert "another row has the same key" in (prepared.folder / "skipped.jsonl").read_text()


def test_the_background_of_transparent_pictures(tiny_vqvae, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in "abc":
        Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(name)
    assert load_collection(str(folder)).as_learned_by(tiny_vqvae.config).config.background == "white"
    for colour in ("red", "blue"):
        collection = load_collection(str(folder), config=CollectionConfig(background=colour))
        with pytest.raises(
            UserError, match=f"transparent pictures on {colour}, .* learned them on {tiny_vqvae.config.background}"
        ):
            make(collection, tiny_vqvae, tmp_path / colour)
        tiny_vqvae.config.background = colour
        prepared = make(collection, tiny_vqvae, tmp_path / colour)
        assert prepared.load_image_tokenizer().image_processor.background == colour
        assert load_collection(str(folder)).as_learned_by(tiny_vqvae.config).config.background == colour
        assert prepared.held_out["held_out"][0]["image"].getpixel((3, 3)) == Image.new("RGB", (1, 1), colour).getpixel(
            (0, 0)
        )


def test_an_encoder_of_pictures_in_one_batch_equals_single_ones(collection, tiny_vqvae, prepared):
    encoder = ShardEncoder(collection, tiny_vqvae, prepared.vocabulary, prepared.folder)
    values = torch.randint(0, 256, (5, 1, 3, 16, 16), dtype=torch.uint8)
    together = encoder.codes_of(values)
    assert together.dtype == np.uint8
    assert together.tolist() == [encoder.codes_of(value[None])[0].tolist() for value in values]
