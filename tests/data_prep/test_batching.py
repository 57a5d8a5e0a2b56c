"""Which rows make a batch: packing by hand, every row once an epoch, static shapes, the exact order after a stop."""

import numpy as np
import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from datasets import Dataset, Features, List, Value, concatenate_datasets
from torch.utils.data import DataLoader

from vqlm.data_prep.batching import (
    NO_CAPTION,
    CaptionLengths,
    DrawnRow,
    PackedBatches,
    PackedRows,
    RowOrder,
    choose_shape,
    pack_rows,
)
from vqlm.data_prep.sequences import ROW_OVERHEAD, PackShape
from vqlm.data_prep.sources.openmoji import captions_by_code_points
from vqlm.data_prep.vocabulary import Vocabulary

TOKENS, VIEWS = 4, 2  # codes of a view, views of a picture
FEATURES = Features(
    {
        "key": Value("string"), "captions": List(Value("string")), "caption_tokens": List(Value("uint16")),
        "codes": List(Value("uint8"), length=TOKENS * VIEWS),
    }
)  # fmt: skip


def rows_of(count: int) -> Dataset:
    """Row r has r % 3 + 1 captions "r/0", ... of r % 5 + 1, ... tokens; its view v is codes 10 v + r % 10."""
    captions = [[f"{row}/{number}" for number in range(row % 3 + 1)] for row in range(count)]
    columns = {
        "key": [str(row) for row in range(count)],
        "captions": captions,
        "caption_tokens": [[row % 5 + 1 + number for number in range(row % 3 + 1)] for row in range(count)],
        "codes": [[row % 10] * TOKENS + [10 + row % 10] * TOKENS for row in range(count)],
    }
    return Dataset.from_dict(columns, features=FEATURES)


def lengths_of(tokens: list[int]) -> CaptionLengths:
    return CaptionLengths(Dataset.from_dict({"caption_tokens": [[number] for number in tokens]}), 400)


def batches_of(count: int, seed: int = 0, batch_size: int = 8, **settings) -> PackedBatches:
    lengths = CaptionLengths(rows_of(count), 64)
    shape = choose_shape(lengths, batch_size, TOKENS + ROW_OVERHEAD, TOKENS)
    return PackedBatches(lengths, shape, seed, num_views=VIEWS, **settings)


def drawn_in(batches) -> list[DrawnRow]:
    return [row for batch in batches for pack in batch for row in pack]


def used_by(row: DrawnRow, batches: PackedBatches) -> int:
    return batches.shape.row_overhead + int(batches.lengths.of(np.array([row.row]), np.array([row.caption]))[0])


# Lengths


def test_lengths_by_hand():
    parts = concatenate_datasets([rows_of(4), rows_of(2)])  # 1 2 3 1 | 1 2 captions
    lengths = CaptionLengths(parts, 4)
    assert len(lengths) == 6
    assert lengths.counts.tolist() == [1, 2, 3, 1, 1, 2]
    assert lengths.tokens.tolist() == [1, 2, 3, 3, 4, 4, 4, 1, 2, 3]  # the last of row 2 has 5 tokens
    assert lengths.of(np.array([2, 0, 5, 2]), np.array([1, 0, 1, NO_CAPTION])).tolist() == [4, 1, 3, 0]


# Packs


def test_packs_by_hand():
    """5 fits after nothing, 3 fits after 5 better than after 4, 1 after 7."""
    assert pack_rows([7, 5, 4, 3, 1], 8) == [[0, 4], [1, 3], [2]]
    assert pack_rows([3, 3, 3, 3], 6) == [[0, 1], [2, 3]]
    assert pack_rows([], 6) == []


def test_every_row_is_in_one_pack_that_holds_it():
    lengths = np.random.default_rng(0).integers(1, 40, 500)
    packs = pack_rows(lengths, 64)
    assert sorted(number for pack in packs for number in pack) == list(range(500))
    assert max(lengths[pack].sum() for pack in packs) <= 64
    assert len(packs) <= 1.02 * lengths.sum() / 64 + 1


def test_rows_of_one_length_are_not_packed():
    shape = choose_shape(lengths_of([5] * 100), 8, 13, 10)
    assert (shape.pack_length, shape.packs, shape.max_rows) == (18, 8, 1)
    assert (shape.code_places, shape.text_places) == (8 * 10, 8 * (3 + 5))


def test_rows_that_may_not_share_a_pack():
    lengths = lengths_of([1, 9] * 50)
    shape = choose_shape(lengths, 8, 7, 4, is_packed=False)
    assert (shape.pack_length, shape.packs, shape.max_rows) == (16, 8, 1)  # two of 8 would fit
    batches = list(PackedBatches(lengths, shape, seed=0))
    assert {len(pack) for batch in batches for pack in batch} == {1}


def test_two_rows_a_pack_where_one_long_caption_pads_all_others():
    """Rows of 100 and one of 130: alone 23% padding, two in 200 none."""
    shape = choose_shape(lengths_of([10] * 999 + [40]), 32, 90, 87)
    assert 200 <= shape.pack_length <= 206
    assert (shape.packs, shape.max_rows) == (16, 2)


def test_long_rows_are_not_packed_to_save_a_little_padding():
    """Two rows of 263 to 279 in one pack would save 3% of the ids, and twice as many ids would see one another."""
    shape = choose_shape(lengths_of([2, 4, 6, 8, 10, 18] * 50), 48, 256 + ROW_OVERHEAD, 256)
    assert (shape.pack_length, shape.packs, shape.max_rows) == (256 + ROW_OVERHEAD + 18, 48, 1)


@pytest.mark.parametrize("caption_dropout", [0.0, 0.1])
def test_little_padding_on_the_real_captions(caption_dropout):
    captions = [names[0] for names in captions_by_code_points(["en"]).values()]
    vocabulary = Vocabulary.train(captions, 1500, {"image": 4})
    lengths = lengths_of([len(ids) for ids in vocabulary.encode_text(captions)])
    shape = choose_shape(lengths, 32, 64 + ROW_OVERHEAD, 64)
    rows = 64 + ROW_OVERHEAD + lengths.tokens.mean()
    assert 1.9 < shape.pack_length / rows < 2.2
    batches = PackedBatches(lengths, shape, seed=0, caption_dropout=caption_dropout)
    used = [sum(used_by(row, batches) for row in drawn_in([batch])) for batch in batches]
    assert 1 - np.mean(used) / (shape.packs * shape.pack_length) < 0.035
    assert len(drawn_in(batches)) / len(used) == pytest.approx(32, abs=0.5)


@pytest.mark.parametrize(("tokens_per_image", "spread"), [(1, 30), (4, 9), (64, 20), (64, 200)])
def test_a_batch_never_outgrows_its_static_places(tokens_per_image, spread):
    lengths = lengths_of(np.random.default_rng(0).integers(1, spread, 2000).tolist())
    shape = choose_shape(lengths, 16, tokens_per_image + ROW_OVERHEAD, tokens_per_image)
    batches = PackedBatches(lengths, shape, seed=0, caption_dropout=0.3)
    for batch in batches:
        assert len(batch) == shape.packs
        for pack in batch:
            assert sum(used_by(row, batches) for row in pack) <= shape.pack_length
            assert len(pack) <= shape.max_rows
        rows = drawn_in([batch])
        texts = sum(used_by(row, batches) - tokens_per_image for row in rows)
        assert len(rows) * tokens_per_image <= shape.code_places
        assert texts <= shape.text_places


# Order


def test_an_order_visits_every_row_once_and_one_pool_after_the_other():
    order = RowOrder(35, seed=0, pool_rows=10)
    windows = [window.tolist() for window in order.windows(4)]
    assert max(map(len, windows)) == 4
    assert all(len({row // 10 for row in window}) == 1 for window in windows)
    visited = [row for window in windows for row in window]
    assert sorted(visited) == list(range(35))
    steps = np.diff(visited)
    assert (steps == 1).sum() < 10  # of 34: a pool is permuted, not read in order
    pools = list(dict.fromkeys(row // 10 for row in visited))
    assert len(pools) == 4
    orders = []
    for epoch in range(8):
        order.set_epoch(epoch)
        orders.append(tuple(dict.fromkeys(int(window[0]) // 10 for window in order.windows(10))))
    assert len(set(orders)) > 3


def test_seed_and_epoch_decide_the_batches():
    def epoch(seed, number):
        batches = batches_of(200, seed, caption_dropout=0.2)
        batches.sampler.set_epoch(number)
        return list(batches)

    assert epoch(0, 3) == epoch(0, 3)
    assert len({str(epoch(seed, number)) for seed in (0, 1) for number in (0, 1, 2)}) == 6


@pytest.mark.parametrize("count", [100, 1000])
def test_an_epoch_shows_every_row_once_but_for_the_last_part_of_a_batch(count):
    batches = batches_of(count)
    drawn_batches = list(batches)
    rows = [row.row for row in drawn_in(drawn_batches)]
    assert len(set(rows)) == len(rows)
    assert count - len(rows) < batches.shape.packs * batches.shape.max_rows
    assert {len(batch) for batch in drawn_batches} == {batches.shape.packs}


def test_every_caption_and_every_view_has_its_turn():
    batches = batches_of(90)
    drawn = set()
    for epoch in range(40):
        batches.sampler.set_epoch(epoch)
        drawn |= set(drawn_in(batches))
    assert drawn == {
        DrawnRow(row, caption, view) for row in range(90) for caption in range(row % 3 + 1) for view in range(VIEWS)
    }


def test_the_share_of_rows_without_a_caption():
    drawn = drawn_in(batches_of(3000, caption_dropout=0.2))
    assert np.mean([row.caption == NO_CAPTION for row in drawn]) == pytest.approx(0.2, abs=0.03)


def test_a_set_smaller_than_a_batch_fills_it():
    batches = batches_of(3, batch_size=16)
    (batch,) = batches
    assert len(batch) == batches.shape.packs
    assert {row.row for row in drawn_in([batch])} == {0, 1, 2}


# Stopping and going on


class CountedRows(PackedRows):
    """Counts the packs that were read."""

    num_read = 0

    def __getitems__(self, packs):
        self.num_read += len(packs)
        return super().__getitems__(packs)


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_a_continued_epoch_goes_on_at_the_exact_pack_and_reads_nothing_before_it(stop):
    batches = batches_of(200, caption_dropout=0.2)
    batches.sampler.set_epoch(2)
    rows = CountedRows(rows_of(200), TOKENS)
    whole = [str(batch) for batch in DataLoader(rows, batch_sampler=batches, collate_fn=list)]
    rows.num_read = 0
    loader = skip_first_batches(DataLoader(rows, batch_sampler=batches, collate_fn=list), stop)
    assert [str(batch) for batch in loader] == whole[stop:]
    assert rows.num_read == (len(whole) - stop) * batches.shape.packs


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_two_processes_share_the_batches_of_one(stop):
    def epoch(process, skipped):
        batches = batches_of(200)
        batches.sampler.set_epoch(1)
        shard = BatchSamplerShard(batches, num_processes=2, process_index=process)  # type: ignore[arg-type]
        return list(SkipBatchSampler(shard, skipped))

    alone = batches_of(200)
    alone.sampler.set_epoch(1)
    expected = list(alone)
    if len(expected) % 2:
        expected.append(expected[0])  # the last round is made even
    assert [epoch(process, stop) for process in (0, 1)] == [expected[2 * stop :: 2], expected[2 * stop + 1 :: 2]]


def test_two_processes_and_a_single_batch():
    batches = batches_of(3)
    shards = [list(BatchSamplerShard(batches, 2, process)) for process in (0, 1)]  # type: ignore[arg-type]
    assert [len(shard) for shard in shards] == [1, 1]


# Reading


def test_drawn_rows_are_read_as_drawn():
    read = PackedRows(concatenate_datasets([rows_of(7), rows_of(8)]), TOKENS)
    assert len(read) == 15
    packs = read.__getitems__([[DrawnRow(14, 1, 1), DrawnRow(3, 0, 0)], [], [DrawnRow(5, NO_CAPTION, 1)]])
    assert [[row["caption"] for row in pack] for pack in packs] == [["7/1", "3/0"], [], [None]]
    assert [[row["codes"].tolist() for row in pack] for pack in packs] == [[[17] * 4, [3] * 4], [], [[15] * 4]]
    assert read[[DrawnRow(2, 2, 0)]][0]["caption"] == "2/2"


def test_the_places_of_a_shape_by_hand():
    """Two rows of 10 to 14 ids in 25: 2 x 6 codes; the text is the rest, 25 - 12, of 2 x (4 + 4) at most."""
    shape = PackShape(25, packs=3, max_rows=2, longest_caption=4, row_overhead=10, tokens_per_image=6)
    assert shape.code_places == 3 * 2 * 6
    assert shape.text_places == 3 * 13
