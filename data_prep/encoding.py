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
from collections import Counter, deque
from collections.abc import Iterator
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

from data_prep.collection import TRAIN, Collection
from data_prep.decoding import DecodedBatch, decoded_batches
from data_prep.pictures import ViewConfig
from data_prep.rows import Row, Unusable
from data_prep.vocabulary import Vocabulary
from training.errors import UserError
from training.files import write_json
from vq import VQVAE, to_pixel_values

SHARD_FILE = "shard.json"
ROWS_A_RECORD_BATCH = 4096
# Originals that a report can show; the pictures of a large held-out set would outweigh all codes.
KEPT_PICTURES = 1024
# More would wait for Python's lock.
MAX_ENCODING_THREADS = 8
ARRAY = {2: Array2D, 3: Array3D, 4: Array4D}
MAX_UINT16 = 2**16 - 1


@dataclass
class ShardEncoder:
    """What all shards of a prepared set have in common; `encode` makes those with these numbers."""

    collection: Collection
    image_tokenizer: VQVAE
    vocabulary: Vocabulary
    folder: Path
    views: ViewConfig = field(default_factory=ViewConfig)
    num_workers: int | None = None

    def encode(self, numbers: list[int]) -> Iterator[dict[str, Any]]:
        """Write the shards of these numbers to `folder`; gives what each one's `shard.json` holds, as they are done.

        Raises UserError when the disk is full.
        """
        chosen = [self.collection.shards[number] for number in numbers]
        if self.collection.array_shape is None:
            self.image_tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        shape, opened = self.image_tokenizer.config.network.input_shape, {}
        batches = decoded_batches(chosen, shape, self.collection.config, self.views, self.num_workers)
        for batch, codes in self._with_codes(batches):
            number = numbers[batch.shard]
            with explained_full_disk(self.folder):
                if number not in opened:
                    opened[number] = _OpenShard(self, number)
                opened[number].add(batch, codes)
                if batch.is_last:
                    yield opened.pop(number).close()

    def _with_codes(self, batches: Iterator[DecodedBatch]) -> Iterator[tuple[DecodedBatch, np.ndarray]]:
        """On a CPU several batches at once, each on cores of its own: a layer that is split among all cores waits for
        the one that decodes. Elsewhere one, while the last is written."""
        cores = torch.get_num_threads()
        threads = min(MAX_ENCODING_THREADS, cores) if self.image_tokenizer.device.type == "cpu" else 1
        waiting: deque[tuple[DecodedBatch, Future[np.ndarray]]] = deque()
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(cores // threads,)) as pool:
            for batch in batches:
                waiting.append((batch, pool.submit(self.codes_of, batch.values)))
                if len(waiting) > 2 * threads:
                    done, codes = waiting.popleft()
                    yield done, codes.result()
            for done, codes in waiting:
                yield done, codes.result()

    def codes_of(self, values: torch.Tensor) -> np.ndarray:
        """(B, views, C, *shape) -> (B, views * tokens_per_image) in the smallest integer type."""
        if not len(values):
            return np.empty((0, self.views.views * self.image_tokenizer.config.tokens_per_image))
        flat = to_pixel_values(values.flatten(0, 1).to(self.image_tokenizer.device))
        if flat.ndim == 4:  # a twentieth to a tenth faster
            flat = flat.contiguous(memory_format=torch.channels_last)
        codes = self.image_tokenizer.flatten_codes(self.image_tokenizer.encode(flat)).cpu().numpy()
        return codes.reshape(len(values), -1).astype(code_type(self.image_tokenizer.config.codebook_size))

    def count_tokens(self, rows: list[Row]) -> list[list[int]]:
        counts = iter(self.vocabulary.count_tokens([caption for row in rows for caption in row.captions]))
        return [[min(next(counts), MAX_UINT16) for _ in row.captions] for row in rows]

    def picture(self, value: torch.Tensor) -> Any:
        """As the tokenizer saw it."""
        if self.collection.array_shape is not None:
            return value.numpy()
        file = io.BytesIO()
        PILImage.fromarray(value.permute(1, 2, 0).numpy()).save(file, "PNG", compress_level=1)
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
        self.known: set[str] = set()
        self.seen, self.skipped, self.lengths = 0, [], Counter()

    def add(self, batch: DecodedBatch, codes: np.ndarray) -> None:
        encoder = self.encoder
        self.seen += len(batch.rows) + len(batch.skipped)
        self.skipped += batch.skipped
        tokens, lengths = encoder.count_tokens(batch.rows), []
        for number, row in enumerate(batch.rows):
            if row.key in self.known:
                self.skipped.append(Unusable(row.key, "another row has the same key"))
                continue
            self.known.add(row.key)
            lengths += tokens[number]
            split = encoder.collection.split_of(row.key)
            if split not in self.files:
                self.files[split] = _SplitFile(self.temporary / f"{split}.arrow", encoder.features(split))
            columns = {
                "key": row.key, "captions": list(row.captions), "caption_tokens": tokens[number],
                "codes": codes[number],
            }  # fmt: skip
            if split != TRAIN:
                is_kept = self.files[split].count < -(-KEPT_PICTURES // len(encoder.collection.shards))
                columns["image"] = encoder.picture(batch.values[number, 0]) if is_kept else None
            self.files[split].add(columns)
        self.lengths.update(lengths)

    def close(self) -> dict[str, Any]:
        for file in self.files.values():
            file.close()
        described = {
            "name": self.shard.name, "stamp": self.shard.stamp, "seen": self.seen,
            "rows": {split: file.count for split, file in self.files.items()},
            "sha256": {split: file.digest.hexdigest() for split, file in self.files.items()},
            "caption_lengths": {str(length): count for length, count in sorted(self.lengths.items())},
            "skipped": [{"key": row.key, "reason": row.reason} for row in self.skipped],
        }  # fmt: skip
        write_json(self.temporary / SHARD_FILE, described)
        os.replace(self.temporary, self.folder)
        return described


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
    """A full disk becomes a UserError, and what was half written in `folder` is removed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        for temporary in folder.glob("*.tmp"):
            shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"The disk of {folder} is full. Finished shards are kept: free some space and continue with --resume."
        ) from None
