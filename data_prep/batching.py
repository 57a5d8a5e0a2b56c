"""Which rows make a batch: an order that a seed and the epoch decide, and rows packed side by side.

    one pack:  bos caption boi codes eoi | bos caption boi codes eoi | padding

Rows of one pack never attend to one another: transformers sees where each begins from the position ids, which restart.
"""

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import torch
from datasets import Dataset
from torch.utils.data import Sampler

from vqlm.data_prep.sequences import PackShape
from vqlm.training.errors import UserError

# Rows that are shuffled together. A smaller set is one pool; a larger set is shuffled pool by pool, so that memory does
# not grow with the set and reads stay close together on the disk.
POOL_ROWS = 2**20
# How many batches' rows are packed together.
WINDOW_BATCHES = 64
# An id of a pack takes time in proportion to 1 + length / this, since attention reaches over the whole pack
# (benchmarks/lm_step.py).
ATTENTION_LENGTH = 670
SAMPLE_ROWS = 2048
LONGEST_PACK = 4  # times the longest row
FINENESS = 64  # pack lengths that are tried between one and two times the longest row
NO_CAPTION = -1


class DrawnRow(NamedTuple):
    """A row number, and which of its captions (`NO_CAPTION` for none) and which of its views this epoch shows."""

    row: int
    caption: int
    view: int


Pack = list[DrawnRow]


class CaptionLengths:
    """Number of tokens of every caption of `rows`, at most `max_tokens`, 2 bytes per caption in memory."""

    def __init__(self, rows: Dataset, max_tokens: int):
        table = rows.select_columns(["caption_tokens"]).with_format("arrow")[:]
        assert isinstance(table, pyarrow.Table)
        lists = table["caption_tokens"].combine_chunks()
        offsets = lists.offsets.to_numpy()
        self.first = offsets[:-1]
        self.counts = np.diff(offsets).astype(np.uint16)
        self.tokens = np.minimum(lists.values.to_numpy(), max_tokens)

    def __len__(self) -> int:
        return len(self.counts)

    def of(self, indices: np.ndarray, captions: np.ndarray) -> np.ndarray:
        """Number of tokens of these captions of these rows; 0 for `NO_CAPTION`."""
        chosen = self.tokens[self.first[indices] + np.maximum(captions, 0)].astype(np.int64)
        return np.where(captions == NO_CAPTION, 0, chosen)


class RowOrder:
    """Windows of row numbers: every row once per epoch, in an order that `seed` and the epoch decide.

    With `weights` a row comes so often on average: 2.5 is twice in one half of the epochs, three times in the other.
    """

    def __init__(self, count: int, seed: int, pool_rows: int = POOL_ROWS, weights: np.ndarray | None = None):
        self.count, self.seed, self.pool_rows, self.epoch = count, seed, pool_rows, 0
        self.weights = weights

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self.epoch = epoch

    def windows(self, size: int) -> Iterator[np.ndarray]:
        """Yields at most `size` row numbers at a time."""
        draw = np.random.default_rng((self.seed, self.epoch))
        starts = draw.permutation(np.arange(0, self.count, self.pool_rows))
        for start in starts:
            pool = start + draw.permutation(min(self.pool_rows, self.count - start))
            if self.weights is not None:
                whole, part = np.divmod(self.weights[pool], 1)
                pool = draw.permutation(np.repeat(pool, (whole + (draw.random(len(pool)) < part)).astype(np.int64)))
            yield from (pool[first : first + size] for first in range(0, len(pool), size))


def weights_of_rows(rows: Dataset, weights: Mapping[str, float]) -> np.ndarray | None:
    """The weight of each row: that of the first pattern that its key matches, else 1; None if there are no patterns.

    Raises UserError for a negative weight, a pattern that no key matches, or weights that leave nothing.
    """
    if not weights:
        return None
    if wrong := [pattern for pattern, weight in weights.items() if not 0 <= weight < np.inf]:
        raise UserError(f"`weights` must not be negative, found {weights[wrong[0]]} for {wrong[0]}.")
    patterns = [(re.compile(fnmatch.translate(pattern)), pattern) for pattern in weights]
    matched: set[str] = set()
    values = np.ones(len(rows), dtype=np.float32)
    for number, key in enumerate(rows["key"]):
        pattern = next((pattern for match, pattern in patterns if match.match(key)), None)
        if pattern is not None:
            values[number] = weights[pattern]
            matched.add(pattern)
    if unknown := [pattern for pattern in weights if pattern not in matched]:
        raise UserError(
            f"`weights` names {unknown[0]!r}, which no training row's key matches, or an earlier pattern takes; the "
            f"first key is {rows[0]['key']!r}."
        )
    if not values.any():
        raise UserError("`weights` are 0 for every row; leave some to train on.")
    return values


def choose_shape(
    lengths: CaptionLengths, batch_size: int, row_overhead: int, tokens_per_image: int, is_packed: bool = True
) -> PackShape:
    """The shape of batches of about `batch_size` rows, with the pack length that takes the least time per row.

    Longer packs have less padding and more to attend to. With `is_packed=False` a pack holds one row and is as long as
    the longest row.
    """
    every = max(1, len(lengths) // SAMPLE_ROWS)
    sample = np.arange(0, len(lengths), every)
    rows = row_overhead + lengths.of(sample, np.zeros(len(sample), dtype=np.int64))
    longest_caption = int(lengths.tokens.max(initial=0))
    longest = row_overhead + longest_caption
    if not is_packed:
        return PackShape(longest, batch_size, 1, longest_caption, row_overhead, tokens_per_image)

    def cost(length: int) -> float:
        return len(pack_rows(rows, length)) * length * (1 + length / ATTENTION_LENGTH)

    best_length = min(range(longest, LONGEST_PACK * longest + 1, max(2, longest // FINENESS)), key=cost)
    packs = max(1, round(batch_size * len(pack_rows(rows, best_length)) / len(rows)))
    max_rows = best_length // row_overhead
    return PackShape(best_length, packs, max_rows, longest_caption, row_overhead, tokens_per_image)


def pack_rows(lengths: Sequence[int] | np.ndarray, pack_length: int) -> list[list[int]]:
    """Row numbers of each pack, by best fit with the longest rows first.

    Open packs are grouped by the room left in them; the bits of one integer say which rooms occur. A row costs a
    microsecond, however many packs are open.
    """
    lengths = np.asarray(lengths)
    sizes = lengths.tolist()
    packs: list[list[int]] = []
    by_room: list[list[list[int]]] = [[] for _ in range(pack_length + 1)]
    rooms = 0
    for number in np.argsort(-lengths, kind="stable").tolist():
        size = sizes[number]
        if fitting := rooms >> size:
            room = size + (fitting & -fitting).bit_length() - 1  # the lowest bit: the least room that suffices
            pack = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, pack = pack_length, []
            packs.append(pack)
        pack.append(number)
        by_room[room - size].append(pack)
        rooms |= 1 << (room - size)
    return packs


class PackedBatches(Sampler[list[Pack]]):
    """Batches of `shape.packs` packs. accelerate sets the epoch on `sampler`."""

    def __init__(
        self,
        lengths: CaptionLengths,
        shape: PackShape,
        seed: int,
        caption_dropout: float = 0.0,
        num_views: int = 1,
        order: RowOrder | None = None,
    ):
        self.lengths, self.shape, self.seed = lengths, shape, seed
        self.caption_dropout, self.num_views = caption_dropout, num_views
        self.sampler = order or RowOrder(len(lengths), seed)
        # Whole batches only: the remainder of an epoch is dropped. accelerate then gives several processes equally many
        # batches by repeating some of the epoch's first.
        self.batch_size, self.drop_last = shape.packs, False

    def __iter__(self) -> Iterator[list[Pack]]:
        draw = np.random.default_rng((self.seed, self.sampler.epoch, 1))
        batch: list[Pack] = []
        is_first = True
        for indices in self.sampler.windows(WINDOW_BATCHES * self.shape.packs * self.shape.max_rows):
            captions = draw.integers(self.lengths.counts[indices])
            captions[draw.random(len(indices)) < self.caption_dropout] = NO_CAPTION
            views = draw.integers(self.num_views, size=len(indices))
            drawn = np.stack([indices, captions, views], 1)
            lengths = self.shape.row_overhead + self.lengths.of(indices, captions)
            # No two rows fit into one pack: every row is a pack.
            if self.shape.max_rows == 1:
                packs = [[number] for number in range(len(drawn))]
            else:
                packs = pack_rows(lengths, self.shape.pack_length)
            for number in draw.permutation(len(packs)).tolist():
                batch.append([DrawnRow(*row) for row in drawn[packs[number]].tolist()])
                if len(batch) == self.shape.packs:
                    yield batch
                    batch, is_first = [], False
        if is_first:  # fewer rows than one batch: rows repeat
            yield [batch[number % len(batch)] for number in range(self.shape.packs)]


class PackedRows(torch.utils.data.Dataset):
    """Captions and codes of drawn rows, read from the memory-mapped `rows` one batch at a time."""

    def __init__(self, rows: Dataset, tokens_per_image: int):
        self.rows = rows.select_columns(["captions", "codes"]).with_format("arrow")
        self.tokens_per_image = tokens_per_image

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, pack: Pack) -> list[dict[str, Any]]:
        return self.__getitems__([pack])[0]

    def __getitems__(self, packs: list[Pack]) -> list[list[dict[str, Any]]]:
        """The rows of each pack, as {caption: text or None, codes: (tokens_per_image,)}."""
        drawn = [row for pack in packs for row in pack]
        table = self.rows[[row.row for row in drawn]]
        assert isinstance(table, pyarrow.Table)
        codes = table["codes"].combine_chunks().flatten().to_numpy().reshape(len(drawn), -1, self.tokens_per_image)
        captions = table["captions"].to_pylist()
        examples = iter(
            {
                "caption": None if row.caption == NO_CAPTION else captions[number][row.caption],
                "codes": codes[number, row.view],
            }
            for number, row in enumerate(drawn)
        )
        return [[next(examples) for _ in pack] for pack in packs]
