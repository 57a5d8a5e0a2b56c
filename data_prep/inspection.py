"""What is wrong with a collection, before anything is trained on it. One pass; a hash is kept of each picture."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor
from vqlm.data_prep.collection import TRAIN, Collection
from vqlm.data_prep.loading import mapped_shards
from vqlm.data_prep.picture_files import UnreadablePicture, decode_picture, explained_picture
from vqlm.data_prep.rows import Row, Unusable
from vqlm.data_prep.settings import CollectionConfig
from vqlm.data_prep.skipped import SkippedRows
from vqlm.training.errors import UserError
from vqlm.vq import scale_and_crop

# Standard deviation of every channel of a picture, 0 to 255, below which there is next to nothing on it.
NEAR_CONSTANT = 4.0
# The crop to the middle loses more than half of a picture whose sides differ by more than this factor.
EXTREME_ASPECT = 2.0
# Shares from which a remark is worth a reader's time.
REMARKABLE = 0.01
LEAK = 0.01
SAMPLES = 24
CAPTIONS_KEPT = 200_000


@dataclass
class PictureFacts:
    """What one usable row tells."""

    key: str
    captions: tuple[str, ...]
    kind: str
    size: tuple[int, int]
    digest: bytes
    deviation: float
    thumbnail: np.ndarray | None


@dataclass
class CollectionInspection:
    """Counts of a collection. sizes: (width, height). lengths: caption length in tokens -> captions, once counted.
    samples: captions and pictures (3, H, W) uint8 as the model will see them."""

    skipped: SkippedRows
    splits: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    num_captions: int = 0
    captions: list[str] = field(default_factory=list)
    lengths: Counter[int] = field(default_factory=Counter)
    near_constant: list[str] = field(default_factory=list)
    copies: int = 0
    leaked: int = 0
    example: tuple[str, str] | None = None
    leak_example: tuple[str, str] | None = None
    twin_stems: list[str] = field(default_factory=list)
    samples: list[tuple[str, Tensor]] = field(default_factory=list)

    @property
    def usable(self) -> int:
        return sum(self.splits.values())


@dataclass
class _Alike:
    """Pictures of the same pixels: how many, and the keys of some."""

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
    """Read and decode all of a collection of pictures for a model of (height, width) `size`.

    Raises UserError for a collection of arrays.
    """
    if collection.array_shape is not None:
        raise UserError("inspect_data.py looks at pictures; arrays are checked when their .npz file is opened.")
    found = CollectionInspection(SkippedRows(collection.config.max_skipped))
    alike: dict[bytes, _Alike] = defaultdict(_Alike)
    stems: dict[str, str] = {}
    examine = partial(_examine, size=size, config=collection.config)
    for _, (facts, skipped), _ in mapped_shards(collection.shards, examine, num_workers):
        found.skipped.add(len(facts) + len(skipped), skipped)
        for fact in facts:
            split = collection.split_of(fact.key)
            found.splits[split] += 1
            found.kinds[fact.kind] += 1
            found.sizes[fact.size] += 1
            found.num_captions += len(fact.captions)
            if split == TRAIN and len(found.captions) < CAPTIONS_KEPT:
                found.captions += fact.captions
            if fact.deviation < NEAR_CONSTANT:
                found.near_constant.append(fact.key)
            alike[fact.digest].add(fact.key, split == TRAIN)
            stem = str(PurePosixPath(fact.key).with_suffix(""))
            if stem != fact.key and stems.setdefault(stem, fact.key) != fact.key:
                found.twin_stems.append(fact.key)
            if fact.thumbnail is not None:
                picture = torch.from_numpy(fact.thumbnail.copy()).permute(2, 0, 1)
                found.samples.append((fact.captions[0], picture))
    for same in alike.values():
        found.copies += same.count - 1
        if same.trained and same.held_out:
            found.leaked += same.num_held_out
        if same.count > 1 and not found.example:
            found.example = (same.first, same.second)
        if same.trained and same.held_out and not found.leak_example:
            found.leak_example = (same.held_out, same.trained)
    every = max(1, len(found.samples) // SAMPLES)
    found.samples = found.samples[::every][:SAMPLES]
    return found


def _examine(
    chunk: list[Row | Unusable], size: tuple[int, int], config: CollectionConfig
) -> tuple[list[PictureFacts], list[Unusable]]:
    facts, skipped = [], []
    for row in chunk:
        if isinstance(row, Unusable) or isinstance(row.image, np.ndarray):
            skipped.append(row)
            continue
        try:
            with explained_picture(row.image, config.max_pixels) as picture:
                kind = "SVG" if picture is None else f"{picture.format} {picture.mode}"
                own_size = (0, 0) if picture is None else picture.size
            values = scale_and_crop(decode_picture(row.image, size, config.background, config.max_pixels), size)
        except UnreadablePicture as error:
            skipped.append(Unusable(row.key, str(error)))
            continue
        digest = hashlib.sha256(values.tobytes()).digest()[:8]
        # One in a batch is enough to show what they look like.
        shown = None if facts else values
        facts.append(
            PictureFacts(row.key, row.captions, kind, own_size, digest, float(values.std((0, 1)).max()), shown)
        )
    return facts, skipped


def findings(
    found: CollectionInspection, size: tuple[int, int], max_caption_tokens: int
) -> tuple[list[str], list[str]]:
    """What stops a training or makes it wrong, and remarks: sentences with a remedy."""
    wrong, remarks, usable = [], [], max(1, found.usable)
    try:
        found.skipped.require_few(Path("unusable.jsonl"))
    except UserError as error:
        wrong.append(str(error))
    if summary := found.skipped.summary():
        remarks.append(f"{summary}. All are listed in unusable.jsonl.")
    held_out = max(1, usable - found.splits[TRAIN])
    if found.leak_example:
        text = (
            f"{found.leaked} of {held_out} held-out pictures are also trained on under another name (such as "
            f"{' as '.join(found.leak_example)}): figures on held-out pictures come out too good. Remove the copies."
        )
        (wrong if found.leaked > LEAK * held_out else remarks).append(text)
    if found.example:
        remarks.append(f"{found.copies} pictures are copies of another (such as {' and '.join(found.example)}).")
    if found.twin_stems:
        remarks.append(
            f"{len(found.twin_stems)} pictures share their name with another but for the suffix (such as "
            f"{found.twin_stems[0]}), and so a .txt beside them."
        )
    if found.near_constant:
        remarks.append(
            f"{len(found.near_constant)} pictures are of nearly one colour (such as {found.near_constant[0]}); there "
            "is little to learn from them."
        )
    if longer := sum(count for length, count in found.lengths.items() if length > max_caption_tokens):
        remarks.append(
            f"{longer} captions are longer than {max_caption_tokens} tokens, the longest has {max(found.lengths)}: "
            "stage two cuts them; raise its max_caption_tokens, or refuse them with --long-captions refuse."
        )
    known = {pair: count for pair, count in found.sizes.items() if min(pair)}
    extreme = sum(
        count for (width, height), count in known.items() if max(width, height) > EXTREME_ASPECT * min(width, height)
    )
    if extreme > REMARKABLE * usable:
        remarks.append(
            f"{extreme} pictures are more than {EXTREME_ASPECT:g} times as long as wide; the crop to the middle loses "
            "more than half of each. Cut or pad them, if what is described is at the edge."
        )
    small = sum(count for (width, height), count in known.items() if height < size[0] or width < size[1])
    if small > REMARKABLE * usable:
        remarks.append(f"{small} pictures are smaller than {size[0]}x{size[1]} and are scaled up.")
    return wrong, remarks


def size_summary(sizes: Counter[tuple[int, int]]) -> dict[str, str]:
    """Smallest, median and largest picture by area, and the commonest."""
    known = sorted(((w * h, (w, h), count) for (w, h), count in sizes.items() if w), key=lambda item: item[0])
    if not known:
        return {}
    middle, passed = sum(count for *_, count in known) / 2, 0
    median = known[-1][1]
    for _, pair, count in known:
        passed += count
        if passed >= middle:
            median = pair
            break
    commonest = max(known, key=lambda item: item[2])[1]
    shown = {"smallest": known[0][1], "median": median, "largest": known[-1][1], "commonest": commonest}
    return {name: f"{width}x{height}" for name, (width, height) in shown.items()}


def aspect_table(sizes: Counter[tuple[int, int]]) -> dict[str, int]:
    """Pictures by width / height."""
    table: dict[str, int] = defaultdict(int)
    bounds: Sequence[tuple[float, str]] = (
        (0.5, "taller than 1:2"), (0.8, "1:2 to 4:5"), (1.25, "about square"), (2.0, "5:4 to 2:1"),
    )  # fmt: skip
    for (width, height), count in sizes.items():
        if width:
            table[next((name for bound, name in bounds if width / height < bound), "wider than 2:1")] += count
    return {name: table[name] for name in [*(name for _, name in bounds), "wider than 2:1"] if table[name]}


def page(found: CollectionInspection, wrong: list[str], remarks: list[str]) -> str:
    """Markdown: findings first, then figures, the samples' picture beside it as samples.png."""
    lengths = sorted(found.lengths.elements())
    rows = {
        "pictures that can be used": found.usable,
        **{f"of them {split}": count for split, count in found.splits.items()},
        "captions": found.num_captions,
        "unusable": len(found.skipped.rows),
        **{f"format {kind}": count for kind, count in found.kinds.most_common()},
        **{f"size, {name}": text for name, text in size_summary(found.sizes).items()},
        **aspect_table(found.sizes),
        "copies of another picture": found.copies,
        "held out and trained on": found.leaked,
        "of nearly one colour": len(found.near_constant),
    }
    if lengths:
        middle, most = lengths[len(lengths) // 2], lengths[int(0.99 * len(lengths))]
        rows["caption length in tokens: median, 99%, longest"] = f"{middle}, {most}, {lengths[-1]}"
    lines = ["# Inspection of a collection", ""]
    lines += [f"- **wrong**: {text}" for text in wrong] + [f"- {text}" for text in remarks]
    lines += ["Nothing found that is wrong."] if not wrong and not remarks else []
    lines += ["", "| figure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    if found.skipped.rows:
        reasons = Counter(row.reason for row in found.skipped.rows)
        lines += ["", "| pictures | why they cannot be used |", "|---|---|"]
        lines += [f"| {count} | {reason} |" for reason, count in reasons.most_common(20)]
    lines += ["", "Some of the pictures, as the model will see them:", "", "![samples](samples.png)"]
    return "\n".join(lines) + "\n"
