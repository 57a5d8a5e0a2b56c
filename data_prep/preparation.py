"""From a collection and a trained image tokenizer to a prepared set, shard by shard, on any number of processes.

A killed run can be continued: a shard on disk is always complete, and any process may write it.
"""

import itertools
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from datasets import Dataset

from vqlm.data_prep.collections.collection import Collection
from vqlm.data_prep.collections.picture_loading import decode_few, require_shape
from vqlm.data_prep.collections.sides import median_side
from vqlm.data_prep.collections.skipped import SkippedRows
from vqlm.data_prep.collections.worker_processes import mapped_shards
from vqlm.data_prep.encoding import SHARD_FILE, ShardEncoder
from vqlm.data_prep.prepared_set import FORM, MANIFEST, SHARDS, PreparedSet
from vqlm.data_prep.settings import TextConfig, ViewConfig
from vqlm.data_prep.sources.rows import Row, Unusable
from vqlm.data_prep.splits import TRAIN, hash_share
from vqlm.data_prep.vocabulary import NAMES, Vocabulary
from vqlm.training.errors import UserError
from vqlm.training.folders.folder_lock import LOCK_FILE, FolderLock
from vqlm.training.folders.output_folder import require_empty
from vqlm.training.folders.same_run import flatten, require_same_run
from vqlm.training.folders.whole_files import flush_to_disk, read_json, write_json
from vqlm.training.machine.allocator import keep_freed_memory
from vqlm.training.machine.device import is_bf16_fast, require_precision, training_device
from vqlm.training.machine.processes import (
    decided_by_main,
    describe_processes,
    lost_processes,
    refuse_parallelism,
    require_launch,
)
from vqlm.training.old_names import COLLECTION_FORM, EARLIER_VALUES
from vqlm.training.watching.progress import Progress
from vqlm.vq import VQVAE

BEGUN = "making.json"  # the settings of a set, written before its first shard
SKIPPED = "skipped.jsonl"
CHECKED_SHARDS, CHECKED_ROWS = 8, 32
# A part of a collection of which more than this share cannot be used stops the work at once.
GROSS = 0.5
# Captions that the BPE is trained on, at most.
BPE_CAPTIONS = 200_000
# How long a process waits for the last shards of the others.
PATIENCE = timedelta(days=7)


def prepare(
    collection: Collection,
    image_tokenizer: VQVAE,
    output: Path,
    data: str,
    text: TextConfig | None = None,
    modalities: dict[str, int] | None = None,
    views: ViewConfig | None = None,
    num_workers: int | None = None,
    resume: bool = False,
    vocabulary: Vocabulary | None = None,
    mixed_precision: Literal["auto", "bf16", "no"] = "no",
) -> PreparedSet:
    """Encode `collection` with `image_tokenizer` and write a prepared set to `output`.

    Args:
        collection: captioned pictures or arrays. The BPE is trained on captions of its training split only.
        image_tokenizer: a trained VQ-VAE.
        output: folder to write; it must be new, empty, or with `resume` hold this same set.
        data: the name of the collection, kept in the manifest and not compared on `resume`.
        text: how captions become ids; by default as `TextConfig` has it, and with `resume` as the set in `output` does.
        modalities: number of codes by name of each further modality; each gets a range of ids.
        views: further views of each picture to encode.
        num_workers: worker processes, as in `ShardEncoder`.
        resume: whether to continue the set in `output`.
        vocabulary: the vocabulary of a finished model, used instead of `text` and `modalities`.
        mixed_precision: precision of the encoder; "auto" is bf16 where the device multiplies it fast and the data has
            at most two dimensions.

    Returns:
        The prepared set, opened.

    Raises:
        UserError: `output` holds something else; the collection's background or fit is not the tokenizer's; more
            pictures than the collection's `max_skipped` cannot be used; a split is empty; the disk is full; for what
            accelerate's launcher asks for and no stage of ours does.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from vqlm import VQVAE, NetworkConfig, VQVAEConfig, load_collection, prepare
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> np.savez(folder / "series.npz", values=np.zeros((20, 1, 16), np.uint8), captions=["flat"] * 20)
        >>> network = NetworkConfig(input_shape=[16], in_channels=1, strides=[2, 2])
        >>> image_tokenizer = VQVAE(VQVAEConfig(network=network))
        >>> collection = load_collection(str(folder / "series.npz"))
        >>> prepared = prepare(collection, image_tokenizer, folder / "data", "series", num_workers=0)
        >>> sum(prepared.manifest["splits"].values()), prepared.tokens_per_image
        (20, 4)
    """
    collection = collection.as_learned_by(image_tokenizer.config)
    start, views, text = time.monotonic(), views or ViewConfig(), text or _text_of(output if resume else None)
    name = NAMES[image_tokenizer.config.network.spatial_dims]
    codebook_sizes = {name: image_tokenizer.config.codebook_size} | _checked(modalities or {}, name)
    refuse_parallelism()
    device, is_bf16 = training_device(), mixed_precision == "bf16"
    require_launch(device)
    require_precision(mixed_precision, device)
    if mixed_precision == "auto":
        is_bf16 = is_bf16_fast(device) and image_tokenizer.config.network.spatial_dims <= 2
    deciding: dict[str, Any] = {
        "data": data,
        "collection": collection.fingerprint(),
        "collection_form": COLLECTION_FORM,
        "image_tokenizer": image_tokenizer.fingerprint(),
        "views": views,
        "encoded_in": "bf16" if is_bf16 else "fp32",
    }
    if vocabulary is None:
        deciding |= {"text": text, "codebook_sizes": codebook_sizes}
    else:
        _check_given(vocabulary, image_tokenizer, text, modalities or {})
        deciding |= {"vocabulary": vocabulary.fingerprint()}
    made_from = {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in deciding.items()
    }
    state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)

    def begin() -> None:
        if not (output / BEGUN).exists():
            check_sample(collection, image_tokenizer.config.network.input_shape)
        new_vocabulary = vocabulary
        if vocabulary is None and not (output / "vocabulary").exists():
            # Before the folder is claimed: settings of the text may be wrong.
            captions = [] if text.pretrained else _captions(collection, num_workers)
            new_vocabulary = Vocabulary.build(captions, text, codebook_sizes)
        _require_ours(output, deciding, collection, resume)
        if (output / MANIFEST).exists():
            return
        lock.take()
        if not _require_ours(output, deciding, collection, resume):  # again: another program may have begun meanwhile
            write_json(output / BEGUN, made_from)
        if not (output / "vocabulary").exists():
            assert new_vocabulary is not None
            _save_whole(new_vocabulary, output / "vocabulary")
        if not (output / "image_tokenizer").exists():
            _save_whole(image_tokenizer, output / "image_tokenizer")

    lock = FolderLock(output, output)
    try:
        decided_by_main(state, begin)
        if not (output / MANIFEST).exists():
            encoder = ShardEncoder(
                collection, image_tokenizer.to(state.device).eval(),  # type: ignore[arg-type]
                Vocabulary.from_pretrained(output / "vocabulary"), output / SHARDS, views, num_workers, is_bf16,
            )  # fmt: skip
            _encode(encoder, state)
            if state.is_main_process:
                _finish(encoder, output, made_from, start)
            state.wait_for_everyone()
    finally:
        lock.release(forever=(output / MANIFEST).exists())
    return PreparedSet.load(output, verify=state.is_main_process)


def _checked(modalities: dict[str, int], name: str) -> dict[str, int]:
    if wrong := {name, "text"} & set(modalities):
        raise UserError(f"`modalities` must not name {wrong.pop()!r}, which exists already; found {modalities}.")
    return modalities


def _check_given(vocabulary: Vocabulary, image_tokenizer: VQVAE, text: TextConfig, modalities: dict[str, int]) -> None:
    if text != TextConfig() or modalities:
        raise UserError("`text` and `modalities` have no effect on the vocabulary of a finished model; leave them out.")
    if vocabulary.image.size != image_tokenizer.config.codebook_size:
        raise UserError(
            f"The vocabulary has {vocabulary.image.size} image codes, the image tokenizer "
            f"{image_tokenizer.config.codebook_size}; take both from one finished model folder."
        )


def _text_of(output: Path | None) -> TextConfig:
    """How the set that was begun in `output` makes ids of captions; the defaults where there is none."""
    if output is None or not (output / BEGUN).exists():
        return TextConfig()
    begun = flatten({"text": read_json(output / BEGUN).get("text", {})})
    values: dict[str, Any] = (EARLIER_VALUES | begun) if begun else {}
    known = {field.name for field in fields(TextConfig)}
    return TextConfig(**{name: value for key, value in values.items() if (name := key.removeprefix("text.")) in known})


def _require_ours(output: Path, deciding: dict[str, Any], collection: Collection, resume: bool) -> bool:
    """Whether this set was begun in `output`. Raises UserError if anything else is there, or this set without `resume`.

    What a program leaves that was killed before it had begun a set is nothing.
    """
    if resume and (output / BEGUN).exists():
        _require_same_set(output, deciding, collection)
        return True
    require_empty(output, besides=(LOCK_FILE, f"{BEGUN}.tmp"))
    return False


def _require_same_set(output: Path, deciding: dict[str, Any], collection: Collection) -> None:
    """Raises UserError if the set that was begun in `output` is of other settings, or of pictures split otherwise."""
    earlier = read_json(output / BEGUN)
    # The fingerprint says whether it is the same collection; a path may be written in several ways.
    require_same_run(output, earlier | {"data": deciding["data"]}, deciding)
    if "collection_form" not in earlier and not (output / MANIFEST).exists():  # its fingerprint could not be compared
        _require_same_splits(output, collection)


def _require_same_splits(output: Path, collection: Collection) -> None:
    """Raises UserError if a row that was written is not in the collection, or is now in another split."""
    for file in sorted((output / SHARDS).glob("??????/*.arrow")):
        for key in Dataset.from_file(str(file))["key"]:
            try:
                split = collection.split_of(key)
            except KeyError:  # the splits of a small collection are listed
                split = "none"
            if split != file.stem:
                raise UserError(
                    f"{output} was begun with an earlier version or with other pictures: {key} is in its split "
                    f"{file.stem}, now in {split}; prepare the data in another `output`."
                )


def _save_whole(part: Vocabulary | VQVAE, folder: Path) -> None:
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    part.save_pretrained(temporary)
    flush_to_disk(*temporary.rglob("*"), temporary)
    os.replace(temporary, folder)
    flush_to_disk(folder.parent)


def check_sample(collection: Collection, input_shape: list[int]) -> None:
    """Decode a few rows of a few shards, to find before the work what is wrong with a whole collection.

    Raises UserError if half of them cannot be used; where they are all rows, if more than `max_skipped` cannot.
    """
    require_shape(collection, input_shape)
    rows, is_all = _first_rows(collection)
    skipped = SkippedRows(collection.config.max_skipped)
    for batch in decode_few(rows, input_shape, collection.config):
        skipped.add(len(batch.rows) + len(batch.skipped), batch.skipped)
    skipped.require_few(at_least=0.0 if is_all else GROSS)


def _first_rows(collection: Collection) -> tuple[list[Row | Unusable], bool]:
    """A few rows of a few shards, and whether these are all."""
    every = -(-len(collection.shards) // CHECKED_SHARDS)
    rows, is_all = [], every == 1
    for shard in collection.shards[::every]:
        first = list(itertools.islice(shard.read(), CHECKED_ROWS + 1))
        is_all &= len(first) <= CHECKED_ROWS
        rows += first[:CHECKED_ROWS]
    return rows, is_all


def _captions(collection: Collection, num_workers: int | None) -> list[str]:
    """Captions of training rows, about `BPE_CAPTIONS` at most: of more, a sample of all by a hash of their keys."""
    kept: list[_Hashed] = []
    count = 0
    hashed = partial(_hashed_captions, split_of=collection.split_of)
    for _, batch, _ in mapped_shards(collection.shards, hashed, num_workers):
        kept += batch
        count += sum(len(row.captions) for row in batch)
        if count > 2 * BPE_CAPTIONS:
            kept, count = _first_captions(kept)
    return [caption for row in _first_captions(kept)[0] for caption in row.captions]


@dataclass(order=True)
class _Hashed:
    """Captions of a row, and the number that decides whether they are drawn. A loader makes lists of tuples."""

    share: float
    captions: tuple[str, ...]


def _hashed_captions(chunk: list[Row | Unusable], split_of: Callable[[str], str]) -> list[_Hashed]:
    return [
        _Hashed(hash_share(f"bpe {row.key}"), row.captions)
        for row in chunk
        if isinstance(row, Row) and split_of(row.key) == TRAIN
    ]


def _first_captions(rows: list[_Hashed]) -> tuple[list[_Hashed], int]:
    """The rows with the lowest hashes that hold at most `BPE_CAPTIONS` captions, and how many these are."""
    rows, count = sorted(rows), 0
    for number, row in enumerate(rows):
        count += len(row.captions)
        if count >= BPE_CAPTIONS:
            return rows[: number + 1], count
    return rows, count


def _encode(encoder: ShardEncoder, state: PartialState) -> None:
    """Encode the shards of this process that are not there yet, and wait for the other processes."""
    keep_freed_memory()
    progress = Progress("prepare", state.is_main_process)
    precision, device = "bf16" if encoder.is_bf16 else "no", encoder.image_tokenizer.device
    described = describe_processes(state.num_processes, device, precision)
    progress.say(described + lost_processes(state.num_processes))
    numbers = range(state.process_index, len(encoder.collection.shards), state.num_processes)
    files = {number: encoder.folder / f"{number:06}" / SHARD_FILE for number in numbers}
    to_do = [number for number in numbers if not files[number].exists()]
    skipped = SkippedRows(encoder.collection.config.max_skipped)
    for number in set(numbers) - set(to_do):
        _count_skipped(skipped, read_json(files[number]))
    start = time.monotonic()
    for done, described in enumerate(encoder.encode(to_do), start=1):
        _count_skipped(skipped, described)
        if len(skipped.rows) > CHECKED_ROWS:  # the share of the whole is judged at the end
            skipped.write(encoder.folder.parent / SKIPPED)
            skipped.require_few(encoder.folder.parent / SKIPPED, at_least=GROSS)
        left = (time.monotonic() - start) * (len(to_do) - done) / done
        progress.show((len(numbers) - len(to_do) + done) / len(numbers), left, f"{skipped.seen} pictures")
    progress.close()
    state.wait_for_everyone()


def _count_skipped(skipped: SkippedRows, shard: dict[str, Any]) -> None:
    skipped.add(shard["seen"], [Unusable(**row) for row in shard["skipped"]])


def _finish(encoder: ShardEncoder, output: Path, made_from: dict[str, Any], start: float) -> None:
    """Write the manifest of the shards, which began at `start` of the monotonic clock."""
    collection, config = encoder.collection, encoder.image_tokenizer.config
    names = [f"{number:06}" for number in range(len(collection.shards))]
    shards = [read_json(output / SHARDS / name / SHARD_FILE) for name in names]
    skipped, splits, lengths = SkippedRows(collection.config.max_skipped), Counter(), Counter()
    for shard in shards:
        _count_skipped(skipped, shard)
        splits.update(shard["rows"])
        lengths.update({int(length): count for length, count in shard["caption_lengths"].items()})
    skipped.write(output / SKIPPED)
    skipped.require_few(output / SKIPPED)
    if absent := [split for split in collection.split_names if not splits[split]]:
        raise UserError(f"No picture of the split {absent[0]} could be used; see {output / SKIPPED}, or add pictures.")
    of_training = (config.training_record or {}).get("seconds")
    seconds = {"train_vq": of_training, "prepare_data": time.monotonic() - start}
    manifest = {
        "form": FORM,
        "made_from": made_from,
        "vocabulary": encoder.vocabulary.fingerprint(),
        "splits": {split: splits[split] for split in collection.split_names},
        "skipped": len(skipped.rows),
        "left_out": skipped.left_out_by_reason(),
        "code_shape": list(config.code_shape),
        "tokens_per_image": config.tokens_per_image,
        "caption_lengths": {str(length): lengths[length] for length in sorted(lengths)},
        "longest_caption_tokens": max(lengths),
        "median_side": median_side(collection, _first_rows(collection)[0]),
        "attribution": collection.attribution,
        "seconds": {stage: None if spent is None else round(spent, 1) for stage, spent in seconds.items()},
        "shards": [
            {"folder": name, "rows": shard["rows"], "sha256": shard["sha256"]}
            for name, shard in zip(names, shards, strict=True)
        ],
    }
    write_json(output / MANIFEST, manifest)
