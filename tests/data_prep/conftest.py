"""A collection read from the folder of pictures, a second image tokenizer, small vocabularies."""

from pathlib import Path

import pytest
import torch

from vqlm.data_prep import Collection, Vocabulary, load_collection
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
