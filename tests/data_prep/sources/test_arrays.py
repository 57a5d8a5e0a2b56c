"""Series and volumes from an .npz file: values, splits, what is refused; prepared as pictures are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vqlm.data_prep import Collection, TextConfig, load_collection, load_pictures, prepare
from vqlm.data_prep.sources.arrays import array_shards
from vqlm.training.errors import UserError
from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig

# About a tenth of the numbers below 60, always the same ones.
HELD_OUT = [9, 39, 49, 51, 55]


@pytest.fixture
def save(tmp_path):
    """save(values, captions): the path of an .npz file of them."""

    def write(values: np.ndarray, captions=None, **others) -> Path:
        captions = [f"day {number}" for number in range(len(values))] if captions is None else captions
        np.savez(tmp_path / "arrays.npz", values=values, captions=np.array(captions), **others)
        return tmp_path / "arrays.npz"

    return write


@pytest.fixture
def series() -> np.ndarray:
    """(60, 1, 24) float32 in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, (60, 1, 24)).astype(np.float32)


@pytest.fixture
def volumes() -> np.ndarray:
    """(20, 2, 4, 8, 12) uint8."""
    return np.random.default_rng(0).integers(0, 256, (20, 2, 4, 8, 12), dtype=np.uint8)


# Rows and splits


def keys_of(path: Path, split: str) -> list[str]:
    return [row.key for row in load_collection(str(path)).rows(split)]


def test_a_fixed_tenth_is_held_out(save, series):
    path = save(series)
    assert keys_of(path, "held_out") == [str(number) for number in HELD_OUT]
    assert keys_of(path, "train") == [str(number) for number in range(60) if number not in HELD_OUT]
    rows = load_collection(str(path)).rows("held_out")
    assert [row.captions for row in rows] == [(f"day {number}",) for number in HELD_OUT]


def test_of_few_rows_one_is_held_out(save, series):
    path = save(series[:2])
    assert (keys_of(path, "train"), keys_of(path, "held_out")) == (["1"], ["0"])


def first_caption(path: Path) -> str:
    return next(load_collection(str(path)).rows()).captions[0]


def test_captions_are_one_line_each(save, series):
    captions = ["  a \n winter  day", *["x"] * 59]
    assert first_caption(save(series, captions)) == "a winter day"


@pytest.mark.parametrize("captions", [[7] * 60, [b"seven"] * 60, [["seven"]] * 60], ids=["numbers", "bytes", "column"])
def test_captions_of_another_type_are_taken_as_text(save, series, captions):
    assert first_caption(save(series, captions)) in ("7", "seven")


def test_series_come_back_exactly(save, series):
    loaded = load_pictures(load_collection(str(save(series))), [24])
    assert loaded.train.dtype == torch.float32
    np.testing.assert_array_equal(loaded.held_out.numpy(), series[HELD_OUT])
    np.testing.assert_array_equal(loaded.train.numpy(), np.delete(series, HELD_OUT, 0))


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_floats_of_another_width_become_fp32(save, series, dtype):
    loaded = load_pictures(load_collection(str(save(series.astype(dtype)))), [24]).held_out
    assert loaded.dtype == torch.float32
    np.testing.assert_array_equal(loaded.numpy(), series.astype(dtype)[HELD_OUT].astype(np.float32))


def test_volumes_of_bytes_come_back_exactly(save, volumes):
    loaded = load_pictures(load_collection(str(save(volumes))), [4, 8, 12])
    assert loaded.train.dtype == loaded.held_out.dtype == torch.uint8
    np.testing.assert_array_equal(loaded.train.numpy(), np.delete(volumes, 9, 0))
    np.testing.assert_array_equal(loaded.held_out.numpy(), volumes[[9]])


def test_pictures_may_be_an_array_too(save):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 3, 6, 5), dtype=np.uint8)
    assert load_pictures(load_collection(str(save(pictures))), (6, 5)).train.shape == (3, 3, 6, 5)


def test_a_shape_that_is_not_theirs_is_answered_with_theirs(save, volumes):
    collection = load_collection(str(save(volumes)))
    for wrong in ([8, 8, 12], [4, 8], [12]):
        with pytest.raises(UserError, match=r"the shape \[4, 8, 12\] .* set `network.input_shape` to \[4, 8, 12\]"):
            load_pictures(collection, wrong)


def test_a_changed_value_is_another_collection(save, series):
    before = load_collection(str(save(series))).fingerprint()
    series[3, 0, 5] = 0.25
    assert load_collection(str(save(series))).fingerprint() != before


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:, 0], r"values must be \(N, C, \*shape\) of 1 to 3 dimensions, found shape \(60, 24\)"),
        (lambda v: v.reshape(60, 1, 2, 2, 2, 3), r"1 to 3 dimensions, found shape \(60, 1, 2, 2, 2, 3\)"),
        (lambda v: v[:, :, :0], r"found shape \(60, 1, 0\)"),
        (lambda v: v.astype(np.int64), r"uint8 or floating point in \[-1, 1\], found int64"),
        (lambda v: v > 0, "uint8 or floating point .*, found bool"),
        (lambda v: v * 100 / np.abs(v).max(), r"must lie in \[-1, 1\], found -\S+ to \S+; scale them"),
        (lambda v: np.where(np.arange(60)[:, None, None] == 7, np.nan, v), "row 7 of values holds NaN or infinity"),
        (lambda v: np.where(np.arange(60)[:, None, None] >= 8, np.inf, v), "row 8 of values holds NaN or infinity"),
    ],
    ids=["2-D", "6-D", "empty", "int", "bool", "range", "NaN", "infinity"],
)
def test_wrong_values_are_named(save, series, change, message):
    with pytest.raises(UserError, match=message) as caught:
        array_shards(save(change(series)))
    assert "arrays.npz: " in str(caught.value)


@pytest.mark.parametrize(
    ("number", "captions", "message"),
    [
        (60, ["day"] * 59, "60 values and 59 captions; at least 2 of each"),
        (1, ["day"], "1 values and 1 captions; at least 2 of each"),
        (0, [], "0 values and 0 captions; at least 2 of each"),
        (3, ["day", " \n ", ""], "caption 1 is empty; write one or leave the row out"),
        (3, "day", "3 values and 1 captions"),
    ],
)
def test_wrong_captions_are_named(save, series, number, captions, message):
    with pytest.raises(UserError, match=message):
        array_shards(save(series[:number], captions))


def test_a_file_without_its_arrays_says_what_it_holds(tmp_path, series):
    for held in ({"values": series}, {"captions": ["day"]}, {"x": series, "y": ["day"]}):
        np.savez(tmp_path / "other.npz", **held)
        with pytest.raises(UserError) as caught:
            array_shards(tmp_path / "other.npz")
        assert str(caught.value).endswith(
            f"other.npz must hold the arrays values and captions; it holds {', '.join(held)}."
        )


def write_text(path: Path) -> None:
    path.write_text("values, captions")


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 1, 24)))


def write_objects(path: Path) -> None:
    np.savez(path, values=np.zeros((3, 1, 24)), captions=np.array(["a", None, "b"], dtype=object))


def write_half(path: Path) -> None:
    np.savez(path, values=np.zeros((3, 1, 24)), captions=np.array(["a"] * 3))
    path.write_bytes(path.read_bytes()[:300])


def write_damaged(path: Path) -> None:
    np.savez_compressed(path, values=np.random.default_rng(0).random((3, 1, 24)), captions=np.array(["a"] * 3))
    content = bytearray(path.read_bytes())
    content[150:250] = bytes(100)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "write", [write_text, write_nothing, write_one_array, write_objects, write_half, write_damaged]
)
def test_a_file_that_is_no_npz_is_named(tmp_path, write):
    write(tmp_path / "broken.npz")
    with pytest.raises(UserError, match=r"broken\.npz cannot be read as \.npz \(.*\); write it with numpy\.savez"):
        load_collection(str(tmp_path / "broken.npz"), 24)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="gone.npz here; `data` must be openmoji.*or an .npz of arrays"):
        load_collection(str(tmp_path / "gone.npz"), 24)


# Prepared


@pytest.fixture
def series_vqvae(series) -> VQVAE:
    """Untrained, series of 24 -> 6 codes of 16."""
    network = NetworkConfig(input_shape=[24], in_channels=1, strides=[2, 2], stem_channels=4, hidden_channels=8)
    model = VQVAE(VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=16, codebook_dim=4))).eval()
    model.quantizer.initialize(model.encode_continuous(torch.from_numpy(series)))
    return model


def test_series_are_prepared_as_pictures_are(save, series, series_vqvae, tmp_path):
    collection: Collection = load_collection(str(save(series)), 24)
    prepared = prepare(collection, series_vqvae, tmp_path / "data", "series", TextConfig(size=280))
    assert prepared.manifest["splits"] == {"train": 55, "held_out": 5}
    assert prepared.manifest["code_shape"] == [6]
    assert list(prepared.vocabulary.modalities) == ["series"]
    codes = series_vqvae.encode(torch.from_numpy(series))
    assert prepared.held_out["held_out"]["codes"][:] == codes[HELD_OUT].tolist()
    assert len({tuple(row) for row in prepared.train["codes"][:]}) > 20
    assert prepared.train.column_names == ["key", "captions", "caption_tokens", "codes"]
    kept = np.asarray(prepared.held_out["held_out"]["image"][:], dtype=np.float32)
    np.testing.assert_array_equal(kept, series[HELD_OUT])


def test_a_further_modality_cannot_take_the_name_of_the_series(save, series, series_vqvae, tmp_path):
    collection = load_collection(str(save(series)), 24)
    with pytest.raises(UserError, match="`modalities` must not name 'series', which exists already"):
        prepare(collection, series_vqvae, tmp_path / "data", "series", modalities={"series": 8})
    prepared = prepare(collection, series_vqvae, tmp_path / "data", "series", modalities={"image": 8})
    assert list(prepared.vocabulary.modalities) == ["series", "image"]


def test_a_tokenizer_of_another_shape_prepares_nothing(save, series, series_vqvae, tmp_path):
    collection = load_collection(str(save(series[:, :, :20])), 24)
    with pytest.raises(UserError, match=r"set `network.input_shape` to \[20\]"):
        prepare(collection, series_vqvae, tmp_path / "data", "series", TextConfig(size=280))
    assert not (tmp_path / "data").exists()
