"""What a collection is like, from counts of its rows and a look at a few hundred of its pictures."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from statistics import mean, median

import numpy as np

from vqlm.data_prep import TextConfig, Vocabulary
from vqlm.data_prep.collections.collection import Collection
from vqlm.data_prep.collections.worker_processes import mapped_shards
from vqlm.data_prep.pictures.picture_files import UnreadablePicture, draw_svg, explained_picture
from vqlm.data_prep.settings import CollectionConfig
from vqlm.data_prep.sources.rows import Row, Shard, Unusable
from vqlm.data_prep.splits import TRAIN
from vqlm.training.errors import UserError
from vqlm.vq import draft, to_rgb
from vqlm.vq.fitting import border_colour, is_transparent

SAMPLED = 256  # pictures that are decoded
COUNTED = 50_000  # rows that are counted: of a larger collection as many shards as hold them; the rest is estimated
DECODED_SIDE = 128  # a picture need not be decoded finer to see its border
ABOUT_SQUARE = 1.1  # longer side / shorter side


@dataclass(frozen=True)
class CollectionFacts:
    """What the plan is made from.

    Args:
        pictures: pictures by split.
        median_side: median of the pictures' shorter sides in pixels; None for drawings, which have any size.
        not_square: share of the pictures whose longer side is more than 1.1 times the shorter.
        transparent: share of the pictures with transparent pixels; every SVG counts as such.
        flat_border: share with one colour along all four edges, after transparent pixels got the background.
        captions_per_picture: mean number.
        words_per_caption: mean number.
        tokens_per_caption: mean number, with a BPE trained on the sample.
        distinct_captions: number of different texts among the first captions of the counted pictures.
        known_words: share of the held-out captions whose words all occur in captions that are trained on.
        counted: number of counted pictures; fewer than all where `pictures` is estimated.
        seconds_per_picture: time to read and decode one, on one core of this machine.
        captions: first captions of the sample.
    """

    pictures: dict[str, int]
    median_side: int | None
    not_square: float
    transparent: float
    flat_border: float
    captions_per_picture: float
    words_per_caption: float
    tokens_per_caption: float
    distinct_captions: int
    known_words: float
    counted: int
    seconds_per_picture: float = field(compare=False)
    captions: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def trained(self) -> int:
        """Pictures to train on."""
        return self.pictures[TRAIN]

    @property
    def held_out(self) -> int:
        return sum(self.pictures.values()) - self.trained


def gather_facts(collection: Collection, seed: int = 0) -> CollectionFacts:
    """Count a collection of pictures and look at `SAMPLED` of them.

    Raises UserError for a collection of arrays, or if no sampled picture can be decoded.
    """
    if collection.array_shape is not None:
        raise UserError(
            "a plan is made for pictures; train arrays of an .npz file with `vqlm train-vq`, `vqlm prepare` and "
            "`vqlm train-lm`."
        )
    counts, sample = _count(collection, seed)
    seen = list(_look_apart(sample, collection))
    looks = [look for look, _ in seen if look is not None]
    if not looks:
        raise UserError(f"none of {len(sample)} pictures can be decoded; `vqlm inspect-data` lists the reasons.")
    sides = [look.side for look in looks if look.side is not None]
    captions = tuple(row.captions[0] for row in sample)
    tokens = Vocabulary.build(list(captions), TextConfig(), {}).count_tokens(list(captions))
    return CollectionFacts(
        pictures={split: round(number * counts.scale) for split, number in counts.pictures.items()},
        median_side=round(median(sides)) if len(sides) > len(looks) / 2 else None,
        not_square=float(mean(look.aspect > ABOUT_SQUARE for look in looks)),
        transparent=float(mean(look.is_transparent for look in looks)),
        flat_border=float(mean(look.has_flat_border for look in looks)),
        captions_per_picture=counts.captions / counts.total,
        words_per_caption=counts.words / counts.captions,
        tokens_per_caption=float(mean(tokens)),
        distinct_captions=len(counts.first_captions),
        known_words=counts.known_words(),
        counted=counts.total,
        seconds_per_picture=float(mean(seconds for _, seconds in seen)),
        captions=captions,
    )


class _Counts:
    """Counts of the rows that were read. scale: all shards / those that were read."""

    def __init__(self, splits: list[str]):
        self.pictures = dict.fromkeys(splits, 0)
        self.total = self.captions = self.words = 0
        self.scale = 1.0
        self.first_captions: Counter[str] = Counter()
        self.trained_words: set[str] = set()
        self.held_out_captions: list[frozenset[str]] = []

    def add(self, row: Row, split: str) -> None:
        self.pictures[split] += 1
        self.total += 1
        self.captions += len(row.captions)
        self.first_captions[row.captions[0]] += 1
        words = [caption.lower().split() for caption in row.captions]
        self.words += sum(map(len, words))
        if split == TRAIN:
            self.trained_words.update(*words)
        else:
            self.held_out_captions.append(frozenset(words[0]))

    def known_words(self) -> float:
        captions = self.held_out_captions
        return float(mean(words <= self.trained_words for words in captions)) if captions else 0.0


def _count(collection: Collection, seed: int) -> tuple[_Counts, list[Row]]:
    """Counts of at most about `COUNTED` rows, and an even sample of those."""
    draw, counts, sample = random.Random(seed), _Counts(collection.split_names), []
    shards = list(collection.shards)
    draw.shuffle(shards)
    for number, shard in enumerate(shards, start=1):
        for row in shard.read():
            if not isinstance(row, Row):
                continue
            counts.add(row, collection.split_of(row.key))
            if len(sample) < SAMPLED:
                sample.append(row)
            elif (place := draw.randrange(counts.total)) < SAMPLED:  # reservoir sampling
                sample[place] = row
        counts.scale = len(shards) / number
        if counts.total >= COUNTED:
            break
    return counts, sample


@dataclass(frozen=True)
class _Look:
    """What one picture looks like. side: the shorter one in pixels, None for a drawing, which has any size."""

    side: int | None
    aspect: float
    is_transparent: bool
    has_flat_border: bool


Seen = tuple[_Look | None, float]  # None for a picture that cannot be decoded; the seconds that looking took


def _look_apart(sample: list[Row], collection: Collection) -> Iterator[Seen]:
    """Look at each picture, in a separate process, since a decoder may crash."""
    shard = Shard("the sample", partial(iter, sample), "")
    look = partial(_look_at_each, config=collection.config, drawn_side=collection.drawn_side)
    for _, seen, _ in mapped_shards([shard], look, 1):
        yield from seen


def _look_at_each(chunk: list[Row | Unusable], config: CollectionConfig, drawn_side: int | None) -> list[Seen]:
    seen: list[Seen] = []
    for row in chunk:
        start = time.perf_counter()
        look = None if isinstance(row, Unusable) else _look_at(row, config, drawn_side)
        seen.append((look, time.perf_counter() - start))
    return seen


def _look_at(row: Row, config: CollectionConfig, drawn_side: int | None) -> _Look | None:
    image = row.image
    assert not isinstance(image, np.ndarray)
    try:
        with explained_picture(image, config.max_pixels) as picture:
            if picture is None:
                svg = image if isinstance(image, bytes) else image.read_bytes()
                drawing = draw_svg(svg.decode(), DECODED_SIDE, config.background)
                return _Look(None, _aspect(drawing.size), True, border_colour(drawing) is not None)
            size = picture.size
            draft(picture, (DECODED_SIDE, DECODED_SIDE))
            rgb = to_rgb(picture, config.background)
            has_transparency = is_transparent(picture)
    except UnreadablePicture:
        return None
    side = None if size == (drawn_side, drawn_side) else min(size)
    return _Look(side, _aspect(size), has_transparency, border_colour(rgb) is not None)


def _aspect(size: tuple[int, int]) -> float:
    return max(size) / min(size)
