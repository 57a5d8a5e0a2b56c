"""Which rows make a batch: an order that a seed and the epoch decide, and rows packed side by side.

    one pack:  bos caption boi codes eoi | bos caption boi codes eoi | padding

Packed rows never attend to one another: transformers finds where each begins from the position ids, which restart.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from vqlm.data_prep.sequences import PackShape

# Rows that are permuted at once. A smaller set is one pool; of a larger one neighbouring rows are, so that memory does
# not grow with it and reading stays in one place of the disk.
POOL_ROWS = 2**20
# Packs are chosen among the rows of so many batches.
WINDOW_BATCHES = 64
# Short packs are quicker, since attention grows with them; this share of padding is short of the 5% that we allow.
GOOD_PADDING = 0.03
SAMPLE_ROWS = 2048
LONGEST_PACK = 4  # of the longest row
FINENESS = 64  # lengths that are tried between one and two of the longest row
NO_CAPTION = -1


class DrawnRow(NamedTuple):
    """A row of the set, and which of its captions (`NO_CAPTION` for none) and views an epoch shows."""

    row: int
    caption: int
    view: int


Pack = list[DrawnRow]


class CaptionLengths:
    """Tokens of every caption of `rows`, cut to `max_tokens`, in memory as 2 bytes a caption."""

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
        """Tokens of these captions of these rows; 0 for `NO_CAPTION`."""
        chosen = self.tokens[self.first[indices] + np.maximum(captions, 0)].astype(np.int64)
        return np.where(captions == NO_CAPTION, 0, chosen)


class RowOrder:
    """Windows of row numbers, every row once an epoch, in an order that `seed` and the epoch decide."""

    def __init__(self, count: int, seed: int, pool_rows: int = POOL_ROWS):
        self.count, self.seed, self.pool_rows, self.epoch = count, seed, pool_rows, 0

    def set_epoch(self, epoch: int) -> None:
        """What accelerate calls."""
        self.epoch = epoch

    def windows(self, size: int) -> Iterator[np.ndarray]:
        """At most `size` numbers at a time."""
        draw = np.random.default_rng((self.seed, self.epoch))
        starts = draw.permutation(np.arange(0, self.count, self.pool_rows))
        for start in starts:
            pool = start + draw.permutation(min(self.pool_rows, self.count - start))
            yield from (pool[first : first + size] for first in range(0, len(pool), size))


def choose_shape(
    lengths: CaptionLengths, batch_size: int, row_overhead: int, tokens_per_image: int, is_packed: bool = True
) -> PackShape:
    """Packs of about `batch_size` rows together: the shortest with little padding, or those with the least.

    Where rows are not to be packed, each is as long as the longest.
    """
    every = max(1, len(lengths) // SAMPLE_ROWS)
    sample = np.arange(0, len(lengths), every)
    rows = row_overhead + lengths.of(sample, np.zeros(len(sample), dtype=np.int64))
    longest_caption = int(lengths.tokens.max(initial=0))
    longest = row_overhead + longest_caption
    if not is_packed:
        return PackShape(longest, batch_size, 1, longest_caption, row_overhead, tokens_per_image)
    best_length, least = longest, 1.0
    for length in range(longest, LONGEST_PACK * longest + 1, max(2, longest // FINENESS)):
        padding = 1 - rows.sum() / (length * len(pack_rows(rows, length)))
        if padding < least:
            best_length, least = length, padding
        if padding <= GOOD_PADDING:
            break
    packs = max(1, round(batch_size * rows.mean() / best_length))
    max_rows = best_length // row_overhead
    return PackShape(best_length, packs, max_rows, longest_caption, row_overhead, tokens_per_image)


def pack_rows(lengths: Sequence[int] | np.ndarray, pack_length: int) -> list[list[int]]:
    """Numbers of rows by pack: best fit, the longest first.

    Open packs are kept by the room that is left in them, and the rooms that occur as the bits of one number, so that
    a row costs a microsecond however many packs are open.
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
    """Batches of `shape.packs` packs. `sampler` is what accelerate tells the epoch."""

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
        # Whole batches only, what is left of an epoch is left out; accelerate then makes the batches of several
        # processes even by repeating some of the epoch's first.
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
            # One row a pack where no two may share it: then every pack is full with one.
            if self.shape.max_rows == 1:
                packs = [[number] for number in range(len(drawn))]
            else:
                packs = pack_rows(lengths, self.shape.pack_length)
            for number in draw.permutation(len(packs)).tolist():
                batch.append([DrawnRow(*row) for row in drawn[packs[number]].tolist()])
                if len(batch) == self.shape.packs:
                    yield batch
                    batch, is_first = [], False
        if is_first:  # fewer rows than a batch holds: each comes more than once
            yield [batch[number % len(batch)] for number in range(self.shape.packs)]


class PackedRows(torch.utils.data.Dataset):
    """Captions and codes of drawn rows, read from the memory-mapped `rows` a batch at a time."""

    def __init__(self, rows: Dataset, tokens_per_image: int):
        self.rows = rows.select_columns(["captions", "codes"]).with_format("arrow")
        self.tokens_per_image = tokens_per_image

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, pack: Pack) -> list[dict[str, Any]]:
        return self.__getitems__([pack])[0]

    def __getitems__(self, packs: list[Pack]) -> list[list[dict[str, Any]]]:
        """For each pack its rows {caption: text or None, codes: (tokens_per_image,)}."""
        drawn = [row for pack in packs for row in pack]
        table = self.rows[[row.row for row in drawn]]
        assert isinstance(table, pyarrow.Table)
        codes = table["codes"].combine_chunks().flatten().to_numpy().reshape(len(drawn), -1, self.tokens_per_image)
        captions = table["captions"].to_pylist()
        made = iter(
            {
                "caption": None if row.caption == NO_CAPTION else captions[number][row.caption],
                "codes": codes[number, row.view],
            }
            for number, row in enumerate(drawn)
        )
        return [[next(made) for _ in pack] for pack in packs]
