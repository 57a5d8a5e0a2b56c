"""Looks for faults of a collection before training: one pass, which keeps a hash of each picture."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from vqlm.data_prep.captions.check import CaptionFacts, caption_findings
from vqlm.data_prep.captions.lines import NO_LINE
from vqlm.data_prep.captions.names import NO_WORDS
from vqlm.data_prep.captions.wording import compared_form
from vqlm.data_prep.collections.collection import Collection
from vqlm.data_prep.collections.copies import digest_of_pixels
from vqlm.data_prep.collections.picture_loading import in_order
from vqlm.data_prep.collections.skipped import SkippedRows
from vqlm.data_prep.collections.worker_processes import mapped_shards
from vqlm.data_prep.pictures.picture_files import UnreadablePicture, decode_picture, explained_picture
from vqlm.data_prep.settings import CollectionConfig
from vqlm.data_prep.sources.rows import LEFT_OUT, OTHER, Row, Unusable
from vqlm.data_prep.splits import TRAIN
from vqlm.training.errors import UserError
from vqlm.training.watching.progress import Progress
from vqlm.vq import has_shape, scale_and_crop

# Files that are not read and may hold pictures.
UNREAD_SUFFIXES = {
    ".eps", ".ps", ".pdf", ".ai", ".heic", ".heif", ".jxl", ".raw", ".cr2", ".nef", ".arw", ".dng", ".svgz", ".zip",
    ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".parquet", ".arrow", ".mp4", ".webm",
}  # fmt: skip
# A picture shows next to nothing if each channel's standard deviation (of 0 to 255) is below this.
NEAR_CONSTANT = 4.0
# Beyond this ratio of its sides, a picture loses more than half where it is cropped to its middle.
EXTREME_ASPECT = 2.0
# Share of pictures from which on a remark is made.
REMARKABLE = 0.01
LEAK = 0.01  # share of held-out pictures that may also be trained on
SAMPLES, MOST_SAMPLES = 24, 1000  # on the sheet; kept while reading
CAPTIONS_KEPT = 200_000
UNUSABLE_FILE, COPIES_FILE = "unusable.jsonl", "copies.jsonl"


@dataclass
class PictureFacts:
    """What the inspection keeps of one usable row."""

    key: str
    captions: tuple[str, ...]
    kind: str
    size: tuple[int, int]
    is_cropped: bool
    digest: bytes
    deviation: float
    thumbnail: np.ndarray | None


@dataclass
class CollectionInspection:
    """Counts of a collection.

    files: files of the place by kind. seen_captions: held-out pictures all of whose captions are also trained on.
    sizes: pictures by (width, height). cropped: those of them that are cropped to the model's shape. lengths: captions
    by length in tokens, filled in by the caller. samples: captions and pictures (3, H, W) uint8 as the model will see
    them.
    """

    skipped: SkippedRows
    splits: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    cropped: Counter[tuple[int, int]] = field(default_factory=Counter)
    num_captions: int = 0
    captions: list[str] = field(default_factory=list)
    lengths: Counter[int] = field(default_factory=Counter)
    near_constant: list[str] = field(default_factory=list)
    leaked: int = 0
    example: tuple[str, str] | None = None
    leak_example: tuple[str, str] | None = None
    twin_stems: list[str] = field(default_factory=list)
    samples: list[tuple[str, Tensor]] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    seen_captions: int = 0
    text: CaptionFacts = field(default_factory=CaptionFacts)
    copies_of: list[tuple[str, str]] = field(default_factory=list)

    @property
    def copies(self) -> int:
        return len(self.copies_of)

    @property
    def num_held_out(self) -> int:
        return self.usable - self.splits[TRAIN]

    @property
    def usable(self) -> int:
        return sum(self.splits.values())


@dataclass
class _Alike:
    """Pictures with the same pixels: their number and the keys of some."""

    first: str = ""
    second: str = ""
    trained: str = ""
    held_out: str = ""
    count: int = 0
    num_held_out: int = 0

    def add(self, key: str, is_trained: bool) -> None:
        self.count += 1
        self.second = self.second or (key if self.first else "")
        self.first = self.first or key
        self.num_held_out += not is_trained
        if is_trained:
            self.trained = self.trained or key
        else:
            self.held_out = self.held_out or key


def inspect_collection(
    collection: Collection, size: tuple[int, int], num_workers: int | None = None
) -> CollectionInspection:
    """Read and decode all pictures of a collection as a model of `size` (height, width) sees them.

    Raises UserError for a collection of arrays.
    """
    if collection.array_shape is not None:
        raise UserError("Only pictures can be inspected; arrays are checked when their .npz file is opened.")
    inspection = CollectionInspection(SkippedRows(collection.config.max_skipped))
    if collection.count_files is not None:
        inspection.files = collection.count_files()
    alike: dict[bytes, _Alike] = defaultdict(_Alike)
    trained_captions: set[int] = set()
    held_out_captions: list[list[int]] = []
    stems: dict[str, str] = {}
    examine = partial(_examine, size=size, config=collection.config)
    progress, taken, shown = Progress("inspect"), 1, 0
    for _, (facts, skipped) in in_order(mapped_shards(collection.shards, examine, num_workers)):
        inspection.skipped.add(len(facts) + len(skipped), skipped)
        progress.tick(f"{inspection.skipped.seen:,} pictures")
        for fact in facts:
            split = collection.split_of(fact.key)
            inspection.splits[split] += 1
            inspection.kinds[fact.kind] += 1
            inspection.sizes[fact.size] += 1
            inspection.cropped[fact.size] += fact.is_cropped
            inspection.num_captions += len(fact.captions)
            hashes = [hash(compared_form(caption)) for caption in fact.captions]
            if split == TRAIN:
                trained_captions.update(hashes)
            else:
                held_out_captions.append(hashes)
            if split == TRAIN and len(inspection.captions) < CAPTIONS_KEPT:
                inspection.captions += fact.captions
            if fact.deviation < NEAR_CONSTANT:
                inspection.near_constant.append(fact.key)
            same = alike[fact.digest]
            if same.count:
                inspection.copies_of.append((fact.key, same.first))
            same.add(fact.key, split == TRAIN)
            inspection.text.add(fact.key, fact.captions)
            stem = str(PurePosixPath(fact.key).with_suffix(""))
            if stem != fact.key and stems.setdefault(stem, fact.key) != fact.key:
                inspection.twin_stems.append(fact.key)
            if fact.thumbnail is not None and (shown := shown + 1) % taken == 0:
                picture = torch.from_numpy(fact.thumbnail.copy()).permute(2, 0, 1)
                inspection.samples.append((fact.captions[0], picture))
        if len(inspection.samples) > MOST_SAMPLES:  # an even part of those that were read
            inspection.samples, taken = inspection.samples[::2], 2 * taken
    inspection.seen_captions = sum(trained_captions.issuperset(hashes) for hashes in held_out_captions)
    for same in alike.values():
        if same.trained and same.held_out:
            inspection.leaked += same.num_held_out
        if same.count > 1 and not inspection.example:
            inspection.example = (same.first, same.second)
        if same.trained and same.held_out and not inspection.leak_example:
            inspection.leak_example = (same.held_out, same.trained)
    count = len(inspection.samples)
    chosen = range(count) if count <= SAMPLES else [number * count // SAMPLES for number in range(SAMPLES)]
    inspection.samples = [inspection.samples[number] for number in chosen]
    return inspection


def _examine(
    chunk: list[Row | Unusable], size: tuple[int, int], config: CollectionConfig
) -> tuple[list[PictureFacts], list[Unusable]]:
    facts, skipped = [], []
    every = max(1, len(chunk) // SAMPLES)  # as many as the sheet takes, for a collection of one batch
    for row in chunk:
        if isinstance(row, Unusable) or isinstance(row.image, np.ndarray):
            skipped.append(row)
            continue
        try:
            with explained_picture(row.image, config.max_pixels) as picture:
                kind = "SVG" if picture is None else f"{picture.format} {picture.mode}"
                full_size = (0, 0) if picture is None else picture.size
            shown = decode_picture(row.image, size, config.background, config.max_pixels, config.fit_or_auto)
        except UnreadablePicture as error:
            skipped.append(Unusable(row.key, str(error)))
            continue
        values = scale_and_crop(shown, size)
        deviation = float(values.std((0, 1)).max())
        sample = values if len(facts) % every == 0 else None
        is_cropped = not has_shape(shown, size)
        facts.append(
            PictureFacts(row.key, row.captions, kind, full_size, is_cropped, digest_of_pixels(shown), deviation, sample)
        )
    return facts, skipped


def findings(
    inspection: CollectionInspection, size: tuple[int, int], max_caption_tokens: int, folder: Path | None = None
) -> tuple[list[str], list[str]]:
    """Faults that stop a training or make it wrong, and remarks: sentences, each with a remedy.

    folder: where the lists that they name are written."""
    folder = folder or Path()
    wrong, remarks, usable = [], [], max(1, inspection.usable)
    try:
        inspection.skipped.require_few(folder / UNUSABLE_FILE)
    except UserError as error:
        wrong.append(str(error))
    if summary := inspection.skipped.summary():
        remarks.append(f"{summary}. All are listed in {folder / UNUSABLE_FILE}.")
    held_out = max(1, inspection.num_held_out)
    remarks += _remarks_on_files(inspection)
    if inspection.seen_captions:
        remarks.append(
            f"{inspection.seen_captions} of {held_out} held-out pictures have captions that are also trained on: as "
            "prompts they are not new, only their pictures are."
        )
    if text := leak_finding(inspection):
        (wrong if inspection.leaked > LEAK * held_out else remarks).append(text)
    if inspection.example:
        remarks.append(
            f"{_counted(inspection.copies, 'is a copy', 'are copies')} of another (such as "
            f"{' and '.join(inspection.example)}), listed "
            f"in {folder / COPIES_FILE}; `drop_copies` leaves them out."
        )
    remarks += caption_findings(inspection.text)
    if inspection.twin_stems:
        remarks.append(
            f"{_counted(len(inspection.twin_stems), 'shares its', 'share their')} name with another but for the suffix "
            f"(such as {inspection.twin_stems[0]}), and so a .txt beside them."
        )
    if inspection.near_constant:
        remarks.append(
            f"{_counted(len(inspection.near_constant), 'is', 'are')} of nearly one colour (such as "
            f"{inspection.near_constant[0]}); there is little to learn from them."
        )
    if longer := sum(count for length, count in inspection.lengths.items() if length > max_caption_tokens):
        remarks.append(
            f"{longer} captions are longer than {max_caption_tokens} tokens, the longest has "
            f"{max(inspection.lengths)}: `vqlm train-lm` cuts them; raise its `max_caption_tokens`, or refuse "
            "them with its `long_captions` refuse."
        )
    sizes = {pair: count for pair, count in inspection.sizes.items() if min(pair)}
    extreme = sum(
        count
        for (width, height), count in inspection.cropped.items()
        if max(width, height) > EXTREME_ASPECT * min(width, height)
    )
    if extreme > REMARKABLE * usable:
        remarks.append(
            f"{extreme} pictures are more than {EXTREME_ASPECT:g} times as long as wide, and the crop to the middle "
            "loses more than half of each; set `fit` pad if the caption describes the edges."
        )
    small = sum(count for (width, height), count in sizes.items() if height < size[0] or width < size[1])
    if small > REMARKABLE * usable:
        remarks.append(f"{_counted(small, 'is', 'are')} smaller than {size[0]}x{size[1]} and scaled up.")
    return wrong, remarks


def leak_finding(inspection: CollectionInspection) -> str | None:
    """The sentence about held-out pictures that are also trained on."""
    if not inspection.leak_example:
        return None
    return (
        f"{inspection.leaked} of {inspection.num_held_out} held-out pictures are also trained on under another name "
        f"(such as {' as '.join(inspection.leak_example)}): figures on held-out pictures come out too good. Leave the "
        "copies out with `drop_copies`."
    )


def _counted(count: int, one: str, many: str) -> str:
    """ "1 picture is", "2 pictures are"."""
    return f"{count} picture {one}" if count == 1 else f"{count} pictures {many}"


def _remarks_on_files(inspection: CollectionInspection) -> list[str]:
    """Pictures and archives of the place that give no rows."""
    remarks = []
    if left_out := inspection.files[LEFT_OUT]:
        remarks.append(
            f"{left_out} pictures are left out: no file with captions names them and no .txt is beside them. Add their "
            "captions if they were meant."
        )
    if wordless := inspection.files[NO_WORDS]:
        remarks.append(
            f"{wordless} pictures are left out: their names have no words. Rename them, write captions, or name their "
            "folders by {path} in `class_template`."
        )
    for kind, count in inspection.files.items():
        if count and kind.startswith(NO_LINE):
            remarks.append(f"{count} {kind}; `caption_lines` first takes each text's first line.")
    suffixes = {kind.removeprefix(OTHER): count for kind, count in inspection.files.items() if kind.startswith(OTHER)}
    if unread := {suffix: count for suffix, count in suffixes.items() if suffix in UNREAD_SUFFIXES}:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()))
        remarks.append(f"Some files may be meant as data and are not read: {listed}. Convert or unpack them.")
    return remarks
