"""The training rows of a prepared set as packs: their lengths, their shape, their loader and their collator."""

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from vqlm.data_prep.batching import (
    LONGEST_PACK,
    CaptionLengths,
    PackedBatches,
    PackedRows,
    RowOrder,
    choose_shape,
    weights_of_rows,
)
from vqlm.data_prep.prepared_set import PreparedSet
from vqlm.data_prep.sequences import ROW_OVERHEAD, Batch, RowCollator
from vqlm.data_prep.settings import SequenceConfig
from vqlm.lm.model import choose_attention
from vqlm.lm.probes import supports_packing
from vqlm.lm.settings import LMTrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.run import Run


def limit_captions(prepared: PreparedSet, config: LMTrainingConfig, run: Run) -> int:
    """Tokens of the longest caption to train on. Longer captions are cut, and the progress says how many.

    Raises UserError for longer ones with `long_captions` "refuse".
    """
    lengths = {int(length): count for length, count in prepared.manifest["caption_lengths"].items()}
    limit = config.max_caption_tokens
    if longer := sum(count for length, count in lengths.items() if length > limit):
        finding = f"{longer} of {sum(lengths.values())} captions are longer than `max_caption_tokens` {limit}"
        if config.long_captions == "refuse":
            raise UserError(
                f"{finding}, the longest has {max(lengths)} tokens. Raise `max_caption_tokens`, shorten the captions, "
                "or set `long_captions` to cut."
            )
        run.progress.say(f"{finding}; they are cut")
    return min(limit, max(lengths))


def longest_row(prepared: PreparedSet, sequences: SequenceConfig, caption_tokens: int) -> int:
    """Ids of the longest row, or of the longest document where rows are interleaved."""
    length = ROW_OVERHEAD + caption_tokens + prepared.tokens_per_image + 1
    return length * LONGEST_PACK if sequences.interleaved else length  # positions run on through a document


class Packs:
    """The training rows in packs, several rows per pack if the model supports it. Sets the model's fastest attention.

    `loader` yields lists of packs; `collate` turns one into a batch.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        model: PreTrainedModel,
        config: LMTrainingConfig,
        sequences: SequenceConfig,
        caption_tokens: int,
        run: Run,
    ):
        is_packed, tokens_per_image = supports_packing(model), prepared.tokens_per_image
        if not is_packed:
            run.progress.say(f"{model.config.model_type} mixes packed rows: one row per pack, with padding")
        lengths = CaptionLengths(prepared.train, caption_tokens)
        self.shape = choose_shape(
            lengths, config.batch_size, ROW_OVERHEAD + tokens_per_image, tokens_per_image, is_packed
        )
        self.device = run.accelerator.device
        choose_attention(model, self.device, self.shape.pack_length)
        if sequences.interleaved and self.shape.max_rows == 1:
            run.progress.say("no two rows share a pack here: `sequences.interleaved` has no effect")
        order = RowOrder(len(lengths), config.seed, weights=weights_of_rows(prepared.train, config.weights))
        batches = PackedBatches(lengths, self.shape, config.seed, sequences.caption_dropout, prepared.num_views, order)
        self.loader = DataLoader(
            PackedRows(prepared.train, tokens_per_image), batch_sampler=batches, collate_fn=list,
            generator=torch.Generator(), num_workers=config.num_workers,  # the global one must not advance
        )  # fmt: skip
        # The sampler decides which rows go without their caption, since lengths decide which rows share a pack.
        self._collator = RowCollator(prepared.vocabulary, caption_tokens, sequences)

    def first(self) -> list:
        """The first packs of the first epoch; the loader does not advance."""
        return self.loader.dataset.__getitems__(next(iter(self.loader.batch_sampler)))  # type: ignore[union-attr]

    def collate(self, packs: list) -> Batch:
        """The batch of `packs`, with its dropout and noise, on the device of the run.

        The training loop calls this. The loader must not, since it reads ahead: a resumed run would then draw other
        random numbers.
        """
        return self._collator(packs, self.shape).to(self.device)
