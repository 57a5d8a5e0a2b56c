"""A prepared set on disk, each of its parts checked against the manifest.

R/data/
  manifest.json       counts, shapes, the checksum of every shard, the fingerprints of what it was made with
  vocabulary/         the stock tokenizer and its ranges
  image_tokenizer/    the VQ-VAE, as it was
  shards/000000/ ...  rows as Arrow files, one a split; see data_prep/encoding.py
  skipped.jsonl       what could not be used, and why
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from datasets import Dataset, concatenate_datasets
from jaxtyping import Int, UInt8
from torch import Tensor
from vqlm.data_prep.collection import TRAIN
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.training.errors import UserError
from vqlm.training.files import checksum_of, read_json, require_match
from vqlm.vq import VQVAE, load_image_tokenizer

MANIFEST = "manifest.json"
SHARDS = "shards"
# Of the manifest; a set of another form is to be prepared anew.
FORM = 2


@dataclass
class PreparedSet:
    """`rows[split]` holds {key, captions, caption_tokens, codes}, held-out splits {image} too, None in most rows of a
    large set. `codes` are flat, `tokens_per_image` for each of `num_views` views of a picture. All stay on disk."""

    folder: Path
    manifest: dict[str, Any]
    vocabulary: Vocabulary
    rows: dict[str, Dataset]

    @classmethod
    def load(cls, folder: Path | str, verify: bool = True) -> "PreparedSet":
        """Open a prepared set; `verify` reads every shard once and compares its checksum.

        Raises UserError if a part is missing, was changed, or was not made with the others.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).exists() and (folder / SHARDS).is_dir():
            raise UserError(f"{folder} is not finished; run prepare_data.py again with --resume.")
        manifest = read_json(folder / MANIFEST)
        if manifest.get("form") != FORM:
            raise UserError(f"{folder} was prepared by another version of vqlm; prepare the data anew.")
        vocabulary = Vocabulary.from_pretrained(folder / "vocabulary")
        require_match(
            f"{folder / 'vocabulary'} has",
            vocabulary.fingerprint(),
            f"{MANIFEST} was written with",
            manifest["vocabulary"],
        )
        if verify:
            _verify(folder, manifest["shards"])
        rows = {}
        for split in manifest["splits"]:
            names = [shard["folder"] for shard in manifest["shards"] if split in shard["rows"]]
            paths = [folder / SHARDS / name / f"{split}.arrow" for name in names]
            _require_files(paths)
            rows[split] = concatenate_datasets([Dataset.from_file(str(path)) for path in paths])
        return cls(folder, manifest, vocabulary, rows)

    def load_image_tokenizer(self) -> VQVAE:
        """The VQ-VAE that made the codes. Raises UserError if the folder holds another."""
        folder = self.folder / "image_tokenizer"
        image_tokenizer = load_image_tokenizer(folder)
        expected = self.manifest["made_from"]["image_tokenizer"]
        require_match(f"{folder} holds image tokenizer", image_tokenizer.fingerprint(), f"{MANIFEST} names", expected)
        return image_tokenizer

    @property
    def train(self) -> Dataset:
        return self.rows[TRAIN]

    @property
    def held_out(self) -> dict[str, Dataset]:
        return {split: rows for split, rows in self.rows.items() if split != TRAIN}

    @property
    def tokens_per_image(self) -> int:
        return self.manifest["tokens_per_image"]

    @property
    def num_views(self) -> int:
        return self.manifest["made_from"]["views"]["views"]

    def codes_of(self, rows: Dataset) -> Int[Tensor, "n tokens_per_image"]:
        """The codes of the first view of `rows`, (N, tokens_per_image) int64."""
        codes = np.asarray(rows.with_format("numpy")["codes"][:])
        return torch.as_tensor(codes[:, : self.tokens_per_image].astype(np.int64))

    def code_parts(self, rows: Dataset, size: int) -> Iterator[Int[Tensor, "n tokens_per_image"]]:
        """The same, `size` rows at a time."""
        for start in range(0, len(rows), size):
            yield self.codes_of(rows.select(range(start, min(start + size, len(rows)))))

    def pictured(self, split: str, most: int) -> Dataset:
        """Up to `most` rows of a held-out split that keep their picture, evenly over it."""
        rows = self.rows[split]
        table = rows.select_columns(["image"]).with_format("arrow")[:]
        assert isinstance(table, pyarrow.Table)
        kept = np.flatnonzero(table["image"].is_valid().to_numpy())
        return rows.select(kept[spread(len(kept), most)])


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` numbers evenly over `count`: a choice that nobody made."""
    wanted = min(count, wanted)
    return [number * count // wanted for number in range(wanted)]


def pictures_of(rows: Dataset) -> UInt8[Tensor, "n c h w"]:
    """The pictures that held-out `rows` keep, as the tokenizer saw them."""
    return torch.stack([torch.from_numpy(np.array(row["image"])).permute(2, 0, 1) for row in rows])  # type: ignore[index]


def _require_files(paths: Iterable[Path]) -> None:
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(
            f"{missing[0]} is missing, which {MANIFEST} names; copy the folder anew, or remove {MANIFEST} and run "
            "prepare_data.py with --resume."
        )


def _verify(folder: Path, shards: list[dict[str, Any]]) -> None:
    expected = {
        folder / SHARDS / shard["folder"] / f"{split}.arrow": checksum
        for shard in shards
        for split, checksum in shard["sha256"].items()
    }
    _require_files(expected)
    with ThreadPoolExecutor() as pool:
        for path, found in zip(expected, pool.map(checksum_of, expected), strict=True):
            if found != expected[path]:
                raise UserError(
                    f"{path} was changed after it was written: its SHA-256 is {found[:16]}..., {MANIFEST} says "
                    f"{expected[path][:16]}... Copy it anew, or remove {path.parent} and {MANIFEST} and run "
                    "prepare_data.py with --resume."
                )
