"""From what a user types after --data to captioned rows, split into what is trained on and what is held out."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets

from data_prep.arrays import load_arrays
from data_prep.folder import load_folder
from data_prep.openmoji import ATTRIBUTION, load_openmoji
from training.errors import UserError

TRAIN = "train"


@dataclass
class Collection:
    """Rows `{image, caption, key}` in the split `train` and one or more held-out splits; `attribution` is the
    licence line that every model trained on it carries."""

    splits: DatasetDict
    attribution: str | None = None

    @property
    def train(self) -> Dataset:
        return self.splits[TRAIN]

    @property
    def held_out_names(self) -> list[str]:
        return [str(name) for name in self.splits if name != TRAIN]

    def fingerprint(self) -> str:
        """16 hex digits that name every split's keys and captions, in order."""
        digest = hashlib.sha256()
        for split, rows in self.splits.items():
            digest.update(json.dumps([str(split), rows["key"][:], rows["caption"][:]]).encode())
        return digest.hexdigest()[:16]

    @property
    def held_out(self) -> Dataset:
        """All held-out splits together."""
        return concatenate_datasets([self.splits[name] for name in self.held_out_names])


def load_collection(data: str, image_size: int) -> Collection:
    """`openmoji`, a folder of captioned pictures (see `load_folder`), or an .npz of arrays (see `load_arrays`).

    `image_size` is the side, in pixels, at which vector pictures are drawn; others keep their own size.
    Raises UserError for anything else.
    """
    if data == "openmoji":
        return Collection(load_openmoji(image_size), ATTRIBUTION)
    folder = Path(data)
    if folder.is_file() and folder.suffix == ".npz":
        return Collection(load_arrays(folder))
    if not folder.is_dir():
        raise UserError(
            f"--data must be openmoji, a folder of captioned pictures, or an .npz of arrays; {data!r} is none of them."
        )
    return Collection(load_folder(folder))
