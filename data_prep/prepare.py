"""From a collection and a trained image tokenizer to a prepared set: captions as text, pictures as codes.

R/data/
  manifest.json       counts, shapes, and the fingerprints of what it was made with
  vocabulary/         the stock tokenizer and its ranges
  image_tokenizer/    the VQ-VAE, as it was
  rows/train/ ...     one data set a split, through `datasets`; held-out rows keep their picture
"""

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetInfo, Features, Image, List, Value, load_from_disk
from jaxtyping import Int
from torch import Tensor

from data_prep.collection import TRAIN, Collection
from data_prep.pictures import holds_pictures, load_pictures
from data_prep.vocabulary import Vocabulary
from training.errors import UserError
from training.files import read_json, require_empty, require_same_settings, write_json
from training.machine import best_device
from vq import VQVAE, to_pil, to_pixel_values

MANIFEST = "manifest.json"
ENCODING_BATCH = 64


def prepare(
    collection: Collection,
    image_tokenizer: VQVAE,
    output: Path,
    data: str,
    text_size: int = 1500,
    resume: bool = False,
) -> "PreparedSet":
    """Encode `collection` with `image_tokenizer` and write a prepared set to `output`.

    Written under a temporary name and renamed, so that `output` is whole or absent. `text_size` is the largest number
    of caption tokens; `data` is what the user called the collection. The BPE is trained on the training captions only.
    Raises UserError if `output` holds anything else than this same prepared set.
    """
    start = time.monotonic()
    made_from = {
        "data": data,
        "collection": collection.fingerprint(),
        "image_tokenizer": image_tokenizer.fingerprint(),
        "text_size": text_size,
    }
    if resume and (output / MANIFEST).exists():
        require_same_settings(output, read_json(output / MANIFEST)["made_from"], made_from)
        return PreparedSet.load(output)
    require_empty(output)

    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    codebook_sizes = {"image": image_tokenizer.config.codebook_size}
    vocabulary = Vocabulary.train(collection.train["caption"], text_size, codebook_sizes)
    vocabulary.save_pretrained(partial / "vocabulary")
    image_tokenizer.save_pretrained(partial / "image_tokenizer")
    for split, rows in collection.splits.items():
        encoded = encode_rows(rows, image_tokenizer, keep_pictures=split != TRAIN)
        encoded.save_to_disk(str(partial / "rows" / str(split)))
    lengths = [len(ids) for rows in collection.splits.values() for ids in vocabulary.encode_text(rows["caption"][:])]
    manifest = {
        "made_from": made_from,
        "vocabulary": vocabulary.fingerprint(),
        "splits": {split: len(rows) for split, rows in collection.splits.items()},
        "code_shape": list(image_tokenizer.config.code_shape),
        "longest_caption_tokens": max(lengths),
        "attribution": collection.attribution,
        "seconds": {"train_vq": _seconds_of_run(image_tokenizer), "prepare_data": round(time.monotonic() - start, 1)},
    }
    write_json(partial / MANIFEST, manifest)
    if output.exists():
        output.rmdir()
    os.replace(partial, output)
    return PreparedSet.load(output)


def encode_rows(rows: Dataset, image_tokenizer: VQVAE, keep_pictures: bool) -> Dataset:
    """Rows {image, caption, key} -> {caption, key, codes}, and the picture as the tokenizer saw it if asked for.

    Codes are flattened row by row and kept in the smallest integer type. The data set's description names the
    tokenizer, so that shards of two tokenizers are never mixed.
    """
    config, device = image_tokenizer.config, best_device()
    image_tokenizer = image_tokenizer.to(device).eval()  # type: ignore[arg-type]
    pictures = load_pictures(rows, config.network.input_shape)
    codes = torch.cat(
        [
            image_tokenizer.flatten_codes(image_tokenizer.encode(to_pixel_values(part.to(device)))).cpu()
            for part in pictures.split(ENCODING_BATCH)
        ]
    )
    code_type = "uint16" if config.codebook_size <= 2**16 else "int32"
    columns: dict[str, Any] = {"caption": rows["caption"][:], "key": rows["key"][:], "codes": codes.numpy()}
    features = {"caption": Value("string"), "key": Value("string"), "codes": List(Value(code_type))}
    if keep_pictures and holds_pictures(rows):
        columns["image"] = to_pil(to_pixel_values(pictures))
        features["image"] = Image()
    elif keep_pictures:
        columns["image"], features["image"] = pictures.numpy(), rows.features["image"]
    made_by = json.dumps({"image_tokenizer": image_tokenizer.fingerprint()})
    return Dataset.from_dict(columns, info=DatasetInfo(description=made_by, features=Features(features)))


@dataclass
class PreparedSet:
    """A prepared set on disk. `rows[split]` holds {caption, key, codes}, held-out splits {image} too."""

    folder: Path
    manifest: dict[str, Any]
    vocabulary: Vocabulary
    rows: dict[str, Dataset]

    @classmethod
    def load(cls, folder: Path | str) -> "PreparedSet":
        """Raises UserError if its parts were not made together: each is checked against the manifest."""
        folder = Path(folder)
        manifest = read_json(folder / MANIFEST)
        vocabulary = Vocabulary.from_pretrained(folder / "vocabulary")
        require_match(
            f"{folder / 'vocabulary'} has",
            vocabulary.fingerprint(),
            f"{MANIFEST} was written with",
            manifest["vocabulary"],
        )
        expected = manifest["made_from"]["image_tokenizer"]
        rows = {}
        for split, count in manifest["splits"].items():
            path = folder / "rows" / split
            if not path.exists():
                raise UserError(f"{path} is missing; {MANIFEST} expects {count} rows there. Prepare the data anew.")
            rows[split] = load_from_disk(str(path))
            found = json.loads(rows[split].info.description or "{}").get("image_tokenizer")
            require_match(f"the codes in {path} were made by image tokenizer", found, f"{MANIFEST} names", expected)
            if len(rows[split]) != count:
                raise UserError(
                    f"{path} holds {len(rows[split])} rows, {MANIFEST} says {count}. Prepare the data anew."
                )
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
        return len(self.train[0]["codes"])


def load_image_tokenizer(folder: Path | str) -> VQVAE:
    """A trained VQ-VAE. Raises UserError for a folder that holds none."""
    if not (Path(folder) / "model.safetensors").exists():
        raise UserError(f"{folder} holds no finished image tokenizer; train one there with scripts/train_vq.py.")
    return VQVAE.from_pretrained(str(folder)).eval()


def require_match(found_what: str, found: str | None, expected_what: str, expected: str) -> None:
    """Raises UserError naming the two things whose fingerprints disagree."""
    if found != expected:
        raise UserError(
            f"{found_what} {found}, but {expected_what} {expected}; they do not belong together. "
            "Use the parts of one run, or prepare the data anew."
        )


def codes_of(rows: Dataset) -> Int[Tensor, "n tokens_per_image"]:
    """All codes of `rows`, (N, tokens_per_image) int64."""
    return torch.as_tensor(np.asarray(rows.with_format("numpy")["codes"][:]).astype(np.int64))


def _seconds_of_run(image_tokenizer: VQVAE) -> float | None:
    summary = Path(image_tokenizer.config.name_or_path or "") / "run" / "summary.json"
    return read_json(summary)["seconds"] if summary.exists() else None
