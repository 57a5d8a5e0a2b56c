"""Where a model folder is, here or on the hub; its two tokenizers, checked against those it was trained with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.model_folder.names import find_folder
from vqlm.training.errors import UserError
from vqlm.training.folders.same_run import require_match
from vqlm.vq import VQVAE, load_image_tokenizer

IMAGE_TOKENIZER = "image_tokenizer"


def local_folder(name: Path | str, **hub: Any) -> Path:
    """`name` if it is a folder; else, given as a string, that folder of the checkout's `models`, or for OWNER/NAME that
    repository of the hub, downloaded.

    `hub` holds arguments of `huggingface_hub.snapshot_download`, such as `revision` and `token`. Raises UserError for a
    name that is none of them.
    """
    if (folder := find_folder(name)) is not None:
        return folder
    try:
        return Path(snapshot_download(str(name), ignore_patterns=["run/*"], **hub))
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name} is not a folder here and cannot be downloaded from the hub ({reason}); name the folder of a "
            "finished model, or OWNER/NAME of one on the hub."
        ) from None


def save_parts(folder: Path, vocabulary: Vocabulary, image_tokenizer: VQVAE) -> None:
    """The vocabulary in `folder`, the VQ-VAE in its subfolder image_tokenizer."""
    vocabulary.save_pretrained(folder)
    image_tokenizer.save_pretrained(folder / IMAGE_TOKENIZER)


def fingerprints(vocabulary: Vocabulary, image_tokenizer: VQVAE) -> dict[str, str]:
    """The fingerprints that `load_parts` compares, by the name of the part."""
    return {"image_tokenizer": image_tokenizer.fingerprint(), "vocabulary": vocabulary.fingerprint()}


def load_parts(folder: Path, expected: Mapping[str, Any]) -> tuple[Vocabulary, VQVAE]:
    """The two tokenizers. Raises UserError if one is missing, or has another fingerprint than `expected`."""
    if not (folder / IMAGE_TOKENIZER).is_dir():
        raise UserError(
            f"{folder} has no folder {IMAGE_TOKENIZER}, which turns codes into pictures; copy the whole folder, or "
            "train the model again."
        )
    vocabulary, image_tokenizer = Vocabulary.from_pretrained(folder), load_image_tokenizer(folder / IMAGE_TOKENIZER)
    for name, fingerprint in fingerprints(vocabulary, image_tokenizer).items():
        require_match(f"the {name} in {folder} is", fingerprint, "its model was trained with", expected.get(name))
    return vocabulary, image_tokenizer
