"""Where a model folder is, here or on the hub; its two tokenizers, checked against what it was trained with."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.training.errors import UserError
from vqlm.training.files import require_match
from vqlm.vq import VQVAE, load_image_tokenizer

IMAGE_TOKENIZER = "image_tokenizer"
REPOSITORY = re.compile(r"\w[\w.-]*/[\w.-]+")


def local_folder(name: Path | str, **hub: Any) -> Path:
    """`name` if it is a folder; for OWNER/NAME, given as a string, that repository of the hub, downloaded.

    `hub` is what `huggingface_hub.snapshot_download` takes, such as `revision` and `token`. Raises UserError for
    neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if not isinstance(name, str) or not REPOSITORY.fullmatch(name):
        raise UserError(f"{name} is no folder; --model must name a model that scripts/train_lm.py finished.")
    try:
        return Path(snapshot_download(name, ignore_patterns=["run/*"], **hub))
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name} is no folder here and cannot be had from the hub ({reason}); name a folder that "
            "scripts/train_lm.py finished, or a repository of one."
        ) from None


def save_parts(folder: Path, vocabulary: Vocabulary, image_tokenizer: VQVAE) -> None:
    """The vocabulary in `folder`, the VQ-VAE in a folder of its own in it."""
    vocabulary.save_pretrained(folder)
    image_tokenizer.save_pretrained(folder / IMAGE_TOKENIZER)


def fingerprints(vocabulary: Vocabulary, image_tokenizer: VQVAE) -> dict[str, str]:
    """What `load_parts` compares, by the part's name."""
    return {"image_tokenizer": image_tokenizer.fingerprint(), "vocabulary": vocabulary.fingerprint()}


def load_parts(folder: Path, expected: Mapping[str, str]) -> tuple[Vocabulary, VQVAE]:
    """Raises UserError if one is missing, or is not the one whose fingerprint is `expected`."""
    if not (folder / IMAGE_TOKENIZER).is_dir():
        raise UserError(
            f"{folder} has no folder {IMAGE_TOKENIZER}, in which a finished model keeps what turns codes into "
            "pictures; copy the whole folder, or train the model again."
        )
    vocabulary, image_tokenizer = Vocabulary.from_pretrained(folder), load_image_tokenizer(folder / IMAGE_TOKENIZER)
    found = fingerprints(vocabulary, image_tokenizer)
    for name in ("vocabulary", "image_tokenizer"):
        require_match(f"the {name} in {folder} is", found[name], "its model was trained with", expected[name])
    return vocabulary, image_tokenizer
