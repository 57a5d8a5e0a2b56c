"""One shard of a collection to one folder of Arrow files: captions as text, pictures as codes.

    000017/train.arrow, held_out.arrow     rows {key, captions, caption_tokens, codes}; of held-out ones the picture too
           shard.json                      counts, checksums, what was skipped and why

Written as `000017.tmp` and renamed, so that a shard is whole or absent.
"""

import errno
import hashlib
import io
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from datasets import Array2D, Array3D, Array4D, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from data_prep.collection import TRAIN, Collection
from data_prep.decoding import decoded_batches
from data_prep.pictures import ViewConfig
from data_prep.rows import Row, Shard, Unusable
from data_prep.vocabulary import Vocabulary
from training.errors import UserError
from training.files import write_json
from vq import VQVAE, to_pixel_values

SHARD_FILE = "shard.json"
ROWS_A_RECORD_BATCH = 4096
# Originals that a report can show; the pictures of a large held-out set would outweigh all codes.
KEPT_PICTURES = 4096
ARRAY = {2: Array2D, 3: Array3D, 4: Array4D}
MAX_UINT16 = 2**16 - 1


@dataclass
class ShardEncoder:
    """What all shards of a prepared set have in common; `encode` makes one of them."""

    collection: Collection
    image_tokenizer: VQVAE
    vocabulary: Vocabulary
    folder: Path
    views: ViewConfig = field(default_factory=ViewConfig)

    def encode(self, shard: Shard, name: str) -> dict[str, Any]:
        """Write `folder/name`; what its `shard.json` holds. Raises UserError when the disk is full."""
        start, config = time.monotonic(), self.image_tokenizer.config
        temporary = self.folder / f"{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with explained_full_disk(temporary):
            files: dict[str, _SplitFile] = {}
            skipped, seen, known, lengths = [], 0, set(), Counter()
            for batch in decoded_batches(shard.read(), config.network.input_shape, self.collection.config, self.views):
                seen += len(batch.rows) + len(batch.skipped)
                skipped += batch.skipped
                if not batch.rows:
                    continue
                codes = self._codes_of(batch.values)
                tokens = self._count_tokens(batch.rows)
                for number, row in enumerate(batch.rows):
                    if row.key in known:
                        skipped.append(Unusable(row.key, "another row has the same key"))
                        continue
                    known.add(row.key)
                    lengths.update(tokens[number])
                    split = self.collection.split_of(row.key)
                    if split not in files:
                        files[split] = _SplitFile(temporary / f"{split}.arrow", self._features(split))
                    columns = {
                        "key": row.key, "captions": list(row.captions), "caption_tokens": tokens[number],
                        "codes": codes[number],
                    }  # fmt: skip
                    if split != TRAIN:
                        is_kept = files[split].count < -(-KEPT_PICTURES // len(self.collection.shards))
                        columns["image"] = self._picture(batch.values[number, 0]) if is_kept else None
                    files[split].add(columns)
            for file in files.values():
                file.close()
            described = {
                "name": shard.name, "stamp": shard.stamp, "seen": seen,
                "rows": {split: file.count for split, file in files.items()},
                "sha256": {split: file.digest.hexdigest() for split, file in files.items()},
                "caption_lengths": {str(length): count for length, count in sorted(lengths.items())},
                "skipped": [{"key": row.key, "reason": row.reason} for row in skipped],
                "seconds": round(time.monotonic() - start, 2),
            }  # fmt: skip
            write_json(temporary / SHARD_FILE, described)
            os.replace(temporary, self.folder / name)
        return described

    def _codes_of(self, values: torch.Tensor) -> np.ndarray:
        """(B, views, C, *shape) -> (B, views * tokens_per_image) in the smallest integer type."""
        flat = to_pixel_values(values.flatten(0, 1).to(self.image_tokenizer.device))
        codes = self.image_tokenizer.flatten_codes(self.image_tokenizer.encode(flat)).cpu().numpy()
        return codes.reshape(len(values), -1).astype(code_type(self.image_tokenizer.config.codebook_size))

    def _count_tokens(self, rows: list[Row]) -> list[list[int]]:
        ids = iter(self.vocabulary.encode_text([caption for row in rows for caption in row.captions]))
        return [[min(len(next(ids)), MAX_UINT16) for _ in row.captions] for row in rows]

    def _picture(self, value: torch.Tensor) -> Any:
        """As the tokenizer saw it."""
        if self.collection.array_shape is not None:
            return value.numpy()
        file = io.BytesIO()
        PILImage.fromarray(value.permute(1, 2, 0).numpy()).save(file, "PNG", compress_level=1)
        return {"bytes": file.getvalue(), "path": None}

    def _features(self, split: str) -> Features:
        config, shape = self.image_tokenizer.config, self.collection.array_shape
        size = self.views.views * config.tokens_per_image
        features = {
            "key": Value("string"), "captions": List(Value("string")), "caption_tokens": List(Value("uint16")),
            "codes": List(Value(code_type(config.codebook_size)), length=size),
        }  # fmt: skip
        if split != TRAIN:
            features["image"] = Image() if shape is None else ARRAY[len(shape)](shape, self._array_type())
        return Features(features)

    def _array_type(self) -> str:
        row = next(self.collection.rows())
        assert isinstance(row.image, np.ndarray)
        return str(row.image.dtype)


class _SplitFile:
    """An Arrow stream that grows by rows and knows its checksum."""

    def __init__(self, path: Path, features: Features):
        self.features, self.count, self.rows = features, 0, []
        self.digest = hashlib.sha256()
        self.file = path.open("wb")
        self.writer = pyarrow.ipc.new_stream(self, features.arrow_schema)

    # What pyarrow asks of a file

    closed = False

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()

    # Rows

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.count += 1
        if len(self.rows) >= ROWS_A_RECORD_BATCH:
            self._write_rows()

    def _write_rows(self) -> None:
        if self.rows:
            columns = {name: [row[name] for row in self.rows] for name in self.features}
            columns["codes"] = np.stack(columns["codes"])  # type: ignore[assignment]
            made = Dataset.from_dict(columns, features=self.features).data.table
            self.writer.write_table(made.combine_chunks())
        self.rows = []

    def close(self) -> None:
        self._write_rows()
        self.writer.close()
        self.file.close()


def code_type(codebook_size: int) -> str:
    """The smallest integer type that holds every code."""
    return next(kind for kind, bits in (("uint8", 8), ("uint16", 16), ("uint32", 32)) if codebook_size <= 2**bits)


@contextmanager
def explained_full_disk(temporary: Path) -> Iterator[None]:
    """A full disk becomes a UserError, and the half-written `temporary` is removed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"The disk of {temporary.parent} is full. Finished shards are kept: free some space and continue with "
            "--resume."
        ) from None
