"""Encodes each shard of a collection to one folder of Arrow files: captions as text, pictures as codes.

    000017/train.arrow, held_out.arrow     rows {key, captions, caption_tokens, codes}, held-out rows also {image}
           shard.json                      counts, checksums, skipped rows and the reasons

A shard is written to `000017.tmp` and renamed, so that a shard on disk is always complete.
"""

import errno
import hashlib
import io
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from datasets import Array2D, Array3D, Array4D, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from vqlm.data_prep.collections.collection import Collection
from vqlm.data_prep.collections.picture_loading import DecodedBatch, decode_rows
from vqlm.data_prep.collections.worker_processes import mapped_shards
from vqlm.data_prep.settings import ViewConfig
from vqlm.data_prep.sources.rows import Row, Shard, Unusable
from vqlm.data_prep.splits import TRAIN
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import write_json
from vqlm.vq import VQVAE, to_pixel_values

SHARD_FILE = "shard.json"
ROWS_PER_RECORD_BATCH = 4096
# Held-out rows that keep their picture, for reports: all pictures of a large set would take more space than its codes.
KEPT_PICTURES = 1024
ARRAY = {2: Array2D, 3: Array3D, 4: Array4D}
MAX_UINT16 = 2**16 - 1


@dataclass
class EncodedBatch:
    """Rows with their codes.

    splits: of each row. caption_tokens: number of tokens of each caption of each row. codes: (B, views *
    tokens_per_image) in the smallest integer type. held_out: pictures (H, C, *shape) of the held-out rows in order.
    skipped: rows that could not be used.
    """

    rows: list[Row]
    splits: list[str]
    caption_tokens: list[list[int]]
    codes: np.ndarray
    held_out: np.ndarray
    skipped: list[Unusable]


@dataclass
class ShardEncoder:
    """Encodes shards of a collection to `folder`.

    `num_workers` processes decode pictures, and on a CPU also encode them; with 0 one decodes and this process encodes.
    The default on a CPU is torch's number of threads, with a GPU the number of cores less one. `is_bf16` runs the
    encoder in bf16 by autocast; the search for the nearest code stays fp32.
    """

    collection: Collection
    image_tokenizer: VQVAE
    vocabulary: Vocabulary
    folder: Path
    views: ViewConfig = field(default_factory=ViewConfig)
    num_workers: int | None = None
    is_bf16: bool = False

    def encode(self, numbers: list[int]) -> Iterator[dict[str, Any]]:
        """Write the shards with these numbers; yields the content of each `shard.json` when it is written.

        Raises UserError when the disk is full.
        """
        chosen = [self.collection.shards[number] for number in numbers]
        if self.collection.array_shape is None:
            self.image_tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        opened: dict[int, _OpenShard] = {}
        for place, batch, is_last in self._encoded_batches(chosen):
            number = numbers[place]
            with explained_full_disk(self.folder):
                if number not in opened:
                    opened[number] = _OpenShard(self, number)
                opened[number].add(batch)
                if is_last:
                    yield opened.pop(number).close()

    def _encoded_batches(self, shards: list[Shard]) -> Iterator[tuple[int, EncodedBatch, bool]]:
        """Yields (place of the shard in `shards`, batch, whether it is the shard's last).

        On a CPU each worker decodes and encodes on one core: no core waits for another, and only codes are passed
        between processes. With a GPU, or with fewer shards than workers, workers decode, and this process encodes one
        batch while it writes the one before.
        """
        workers = torch.get_num_threads() if self.num_workers is None else self.num_workers
        if workers and self.image_tokenizer.device.type == "cpu" and len(shards) >= workers:
            yield from mapped_shards(shards, self.encode_rows, workers)
            return
        waiting: deque[tuple[int, Future[EncodedBatch], bool]] = deque()
        with ThreadPoolExecutor(1) as pool:
            for place, decoded, is_last in mapped_shards(shards, self._decode, self.num_workers):
                waiting.append((place, pool.submit(self._encode, decoded), is_last))
                if len(waiting) > 2:
                    place, encoded, is_last = waiting.popleft()
                    yield place, encoded.result(), is_last
            for place, encoded, is_last in waiting:
                yield place, encoded.result(), is_last

    def encode_rows(self, chunk: Sequence[Row | Unusable]) -> EncodedBatch:
        """Decode and encode one batch in this thread."""
        return self._encode(self._decode(chunk))

    def _decode(self, chunk: Sequence[Row | Unusable]) -> DecodedBatch:
        return decode_rows(chunk, self.image_tokenizer.config.network.input_shape, self.collection.config, self.views)

    def _encode(self, batch: DecodedBatch) -> EncodedBatch:
        splits = [self.collection.split_of(row.key) for row in batch.rows]
        held_out = batch.values[torch.tensor([split != TRAIN for split in splits], dtype=torch.bool), 0].numpy()
        return EncodedBatch(
            batch.rows, splits, self._count_tokens(batch.rows), self.codes_of(batch.values), held_out, batch.skipped
        )

    def codes_of(self, values: torch.Tensor) -> np.ndarray:
        """(B, views, C, *shape) -> (B, views * tokens_per_image) in the smallest integer type."""
        if not len(values):
            return np.empty((0, self.views.views * self.image_tokenizer.config.tokens_per_image))
        flat = to_pixel_values(values.flatten(0, 1).to(self.image_tokenizer.device))
        if flat.ndim == 4:  # 5% to 10% faster
            flat = flat.contiguous(memory_format=torch.channels_last)
        with torch.autocast(flat.device.type, torch.bfloat16, enabled=self.is_bf16):
            codes = self.image_tokenizer.flatten_codes(self.image_tokenizer.encode(flat)).cpu().numpy()
        return codes.reshape(len(values), -1).astype(code_type(self.image_tokenizer.config.codebook_size))

    def _count_tokens(self, rows: list[Row]) -> list[list[int]]:
        counts = iter(self.vocabulary.count_tokens([caption for row in rows for caption in row.captions]))
        return [[min(next(counts), MAX_UINT16) for _ in row.captions] for row in rows]

    def picture(self, value: np.ndarray) -> Any:
        """(C, *shape) in the form in which `datasets` stores it."""
        if self.collection.array_shape is not None:
            return value
        file = io.BytesIO()
        PILImage.fromarray(value.transpose(1, 2, 0)).save(file, "PNG", compress_level=1)
        return {"bytes": file.getvalue(), "path": None}

    def features(self, split: str) -> Features:
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


class _OpenShard:
    """A shard that is being written."""

    def __init__(self, encoder: ShardEncoder, number: int):
        self.encoder, self.shard = encoder, encoder.collection.shards[number]
        self.folder = encoder.folder / f"{number:06}"
        self.temporary = self.folder.with_suffix(".tmp")
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        self.files: dict[str, _SplitFile] = {}
        self.keys: set[str] = set()
        self.seen, self.skipped, self.lengths = 0, [], Counter()

    def add(self, batch: EncodedBatch) -> None:
        encoder, held_out = self.encoder, iter(batch.held_out)
        self.seen += len(batch.rows) + len(batch.skipped)
        self.skipped += batch.skipped
        for row, split, tokens, codes in zip(batch.rows, batch.splits, batch.caption_tokens, batch.codes, strict=True):
            picture = None if split == TRAIN else next(held_out)
            if row.key in self.keys:
                self.skipped.append(Unusable(row.key, "another row has the same key"))
                continue
            self.keys.add(row.key)
            self.lengths.update(tokens)
            if split not in self.files:
                self.files[split] = _SplitFile(self.temporary / f"{split}.arrow", encoder.features(split))
            columns = {"key": row.key, "captions": list(row.captions), "caption_tokens": tokens, "codes": codes}
            if picture is not None:
                is_kept = self.files[split].count < -(-KEPT_PICTURES // len(encoder.collection.shards))
                columns["image"] = encoder.picture(picture) if is_kept else None
            self.files[split].add(columns)

    def close(self) -> dict[str, Any]:
        for file in self.files.values():
            file.close()
        described = {
            "name": self.shard.name, "stamp": self.shard.stamp, "seen": self.seen,
            "rows": {split: file.count for split, file in self.files.items()},
            "sha256": {split: file.digest.hexdigest() for split, file in self.files.items()},
            "caption_lengths": {str(length): count for length, count in sorted(self.lengths.items())},
            "skipped": [
                {"key": row.key, "reason": row.reason} | ({"is_left_out": True} if row.is_left_out else {})
                for row in self.skipped
            ],
        }  # fmt: skip
        write_json(self.temporary / SHARD_FILE, described)
        os.replace(self.temporary, self.folder)
        return described


class _SplitFile:
    """An Arrow stream of rows that computes its SHA-256 while it is written."""

    def __init__(self, path: Path, features: Features):
        self.features, self.count, self.rows = features, 0, []
        self.digest = hashlib.sha256()
        self.file = path.open("wb")
        self.writer = pyarrow.ipc.new_stream(self, features.arrow_schema)

    # The interface of a file, for pyarrow

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
        if len(self.rows) >= ROWS_PER_RECORD_BATCH:
            self._write_rows()

    def _write_rows(self) -> None:
        if self.rows:
            columns = {name: [row[name] for row in self.rows] for name in self.features}
            codes = np.stack(columns.pop("codes"))  # (N, views * tokens_per_image)
            arrays = {name: _arrow_array(values, self.features[name]) for name, values in columns.items()}
            arrays["codes"] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(codes.reshape(-1)), codes.shape[1])
            schema = self.features.arrow_schema
            self.writer.write_batch(pyarrow.record_batch([arrays[name] for name in schema.names], schema=schema))
        self.rows = []

    def close(self) -> None:
        self._write_rows()
        self.writer.close()
        self.file.close()


def _arrow_array(values: list[Any], feature: Any) -> pyarrow.Array:
    if isinstance(feature, Array2D | Array3D | Array4D):
        return Dataset.from_dict({"_": values}, features=Features({"_": feature})).data.table["_"].combine_chunks()
    return pyarrow.array(
        values, feature.pa_type if isinstance(feature, Image | Value) else pyarrow.list_(feature.feature.pa_type)
    )


def code_type(codebook_size: int) -> str:
    """The smallest integer type that holds every code."""
    return next(kind for kind, bits in (("uint8", 8), ("uint16", 16), ("uint32", 32)) if codebook_size <= 2**bits)


@contextmanager
def explained_full_disk(folder: Path) -> Iterator[None]:
    """Turns a full disk into a UserError and removes half-written shards from `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        for temporary in folder.glob("*.tmp"):
            shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"The disk of {folder} is full. Finished shards are kept: free some space and continue with `resume`."
        ) from None
