"""A collection read from the folder of pictures, a second image tokenizer, small vocabularies."""

from pathlib import Path

import pytest
import torch

from vqlm.data_prep import Collection, PreparedSet, TextConfig, Vocabulary, load_collection, prepare
from vqlm.data_prep.sources.rows import Shard
from vqlm.vq import VQVAE, VQVAEConfig

IMAGE_CODES = 16


@pytest.fixture
def collection(picture_folder: Path) -> Collection:
    return load_collection(str(picture_folder), 16)


@pytest.fixture
def other_vqvae(tiny_vqvae_config: VQVAEConfig) -> VQVAE:
    """As `tiny_vqvae`, with other weights."""
    torch.manual_seed(1)
    return VQVAE(tiny_vqvae_config).eval()


@pytest.fixture
def byte_vocabulary() -> Vocabulary:
    """No merges, so that ids can be written by hand: pad 0, bos 1, eos 2, bytes from 3 to 258, boi 259, eoi 260, codes
    from 261 to 276. A character from "!" (33) to "~" has the id of its code point less 30; a space has 223."""
    return Vocabulary.train(["ab"], 259, {"image": IMAGE_CODES})


@pytest.fixture
def vocabulary() -> Vocabulary:
    """With merges of a few words."""
    return Vocabulary.train(["red heart", "blue heart", "red square"] * 3, 280, {"image": IMAGE_CODES})


@pytest.fixture
def in_parts(picture_folder) -> Collection:
    """The 24 pictures in 6 shards of 4."""
    whole = load_collection(str(picture_folder))
    rows = list(whole.rows())
    whole.shards = [
        Shard(f"part {start}", lambda start=start: iter(rows[start : start + 4]), str(start))
        for start in range(0, 24, 4)
    ]
    return whole


@pytest.fixture
def prepared(collection, tiny_vqvae, tmp_path) -> PreparedSet:
    return prepare(collection, tiny_vqvae, tmp_path / "data", "pictures", TextConfig(size=280), num_workers=0)
