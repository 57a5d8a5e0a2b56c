"""Rows that a language model trains on, built while batching from captions and codes.

    bos caption boi codes eoi eos      text to image
    bos boi codes eoi caption eos      image to text
    bos boi codes eoi eos              a picture without a caption

Every id except bos is predicted from the ids before it in its row; eos is never an input. Joined to a document, rows
follow one another without eos, but a caption after its picture still predicts eos: there its text ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vqlm.data_prep.captions.bpe_dropout import BPEDropout
from vqlm.data_prep.captions.wording import vary_tags
from vqlm.data_prep.settings import SequenceConfig
from vqlm.data_prep.vocabulary import Vocabulary

IGNORED = -100
LONGER = 32  # ids by which a pack or its texts grow if needed, so that few different shapes occur
ROW_OVERHEAD = 3  # bos, boi and eoi: the inputs of a row besides its caption and its codes


@dataclass
class PackShape:
    """The shape of every batch of a run.

    pack_length: ids per pack. packs: packs per batch. max_rows: rows that fit into one pack. longest_caption: in ids.
    row_overhead: ids of a row besides its caption, including its `tokens_per_image` codes.
    """

    pack_length: int
    packs: int
    max_rows: int
    longest_caption: int
    row_overhead: int
    tokens_per_image: int

    @property
    def num_ids(self) -> int:
        """Ids of a batch, padding among them."""
        return self.packs * self.pack_length

    @property
    def code_places(self) -> int:
        """Maximum number of positions in a batch that predict codes."""
        return self.packs * self.max_rows * self.tokens_per_image

    @property
    def text_places(self) -> int:
        """Maximum number of positions in a batch that predict anything else."""
        others = self.row_overhead - self.tokens_per_image + self.longest_caption
        return self.packs * max(
            min(self.pack_length - rows * self.tokens_per_image, rows * others) for rows in range(1, self.max_rows + 1)
        )


@dataclass
class Batch:
    """Packed rows, and which position predicts what.

    input_ids, position_ids: (P, T). Position ids restart at every row and are 0 in the padding after the last row. A
    stock forward keeps the rows of a pack apart only without an attention mask and with `use_cache=False`.
    code_places: (M,) positions in the flattened (P * T) of the ids before each code; code_targets: the codes, [0, K).
    text_places, text_targets: (N,) the same for vocabulary ids of captions and special tokens; is_described: (N,)
    whether the caption stands after its picture.
    Targets are IGNORED where M or N exceeds the number of predictions.
    """

    input_ids: Int[Tensor, "p t"]
    position_ids: Int[Tensor, "p t"]
    code_places: Int[Tensor, " m"]
    code_targets: Int[Tensor, " m"]
    text_places: Int[Tensor, " n"]
    text_targets: Int[Tensor, " n"]
    is_described: Bool[Tensor, " n"]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})

    @property
    def num_tokens(self) -> int:
        """Number of input ids without padding."""
        predicted = (self.code_targets != IGNORED).sum() + (self.text_targets != IGNORED).sum()
        # The inputs of a row are all ids but the last, its targets all but the first: equally many.
        return int(predicted)


def left_pad(rows: list[list[int]], pad: int) -> tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Rows of different lengths -> input_ids, attention_mask and position_ids for drawing, padded on the left.

    Positions count from a row's first real token.
    """
    length = max(map(len, rows))
    input_ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows], dtype=torch.int64)
    starts = torch.tensor([length - len(row) for row in rows])
    columns = torch.arange(length)
    position_ids = (columns - starts.unsqueeze(1)).clamp(min=0)
    return input_ids, columns >= starts.unsqueeze(1), position_ids


def caption_ids(
    vocabulary: Vocabulary, captions: Sequence[str | None], max_tokens: int, bpe_dropout: BPEDropout | None = None
) -> list[list[int] | None]:
    """The ids of each caption, cut to `max_tokens`; None for None or an empty caption."""
    ids = iter((bpe_dropout or vocabulary).encode_text([caption for caption in captions if caption]))
    return [next(ids)[:max_tokens] if caption else None for caption in captions]


def prompt_ids(vocabulary: Vocabulary, captions: Sequence[list[int] | None]) -> list[list[int]]:
    """`bos caption boi` for the ids of each caption, `bos boi` for None: what a picture is drawn after."""
    return [[vocabulary.bos, *(caption or []), vocabulary.boi] for caption in captions]


def picture_ids(vocabulary: Vocabulary, codes: Int[Tensor, "b n"]) -> Int[Tensor, "b t"]:
    """`bos boi codes eoi` for each picture; its caption follows."""
    ids = vocabulary.codes_to_ids(codes)
    column = ids.new_ones(len(ids), 1)
    return torch.cat([column * vocabulary.bos, column * vocabulary.boi, ids, column * vocabulary.eoi], 1)


class Piece(NamedTuple):
    """The inputs of one row: ids (T,), which of them are codes, what each predicts, and whether that belongs to a
    caption after its picture.

    numpy arrays: a batch takes hundreds of small operations, which have less overhead in numpy than in torch.
    """

    ids: Int[np.ndarray, " t"]
    is_code: Bool[np.ndarray, " t"]
    targets: Int[np.ndarray, " t"]
    is_described: Bool[np.ndarray, " t"]


class RowCollator:
    """Turns packs of rows {caption, codes} into a `Batch`, text first or picture first.

    A caption may be None. With `config=None` rows stay as they are, which is how held-out rows are read.
    """

    def __init__(self, vocabulary: Vocabulary, max_caption_tokens: int, config: SequenceConfig | None):
        self.vocabulary, self.max_caption_tokens = vocabulary, max_caption_tokens
        self.config = config or SequenceConfig(caption_dropout=0.0, word_dropout=0.0, code_noise=0.0)
        self.bpe_dropout = BPEDropout(vocabulary, self.config.bpe_dropout) if self.config.bpe_dropout else None

    def __call__(self, packs: Sequence[Sequence[dict[str, Any]]], shape: PackShape | None = None) -> Batch:
        """Build a batch of `shape`; without a shape it is as small as these packs allow."""
        vocabulary = self.vocabulary
        rows = [row for pack in packs for row in pack]
        captions = [self._thin(row["caption"]) for row in rows]
        prompts = iter(
            prompt_ids(vocabulary, caption_ids(vocabulary, captions, self.max_caption_tokens, self.bpe_dropout))
        )
        codes = torch.from_numpy(np.stack([row["codes"] for row in rows]).astype(np.int64))  # (B, n)
        noisy = iter(vocabulary.codes_to_ids(self._disturb(codes)).numpy())
        documents = []
        for pack in packs:
            pieces = [self._piece(next(prompts), next(noisy)) for _ in pack]
            documents.append(_joined(pieces) if self._draw(self.config.interleaved) else pieces)
        length = max(sum(len(piece.ids) for piece in pack) for pack in documents)
        if shape:  # BPE dropout lengthens captions after the packs were chosen
            length = shape.pack_length + -(-max(0, length - shape.pack_length) // LONGER) * LONGER
        input_ids = np.full((len(packs), length), vocabulary.pad)
        position_ids = np.zeros((len(packs), length), dtype=np.int64)
        code_places, text_places, text_targets, is_described = [], [], [], []
        for number, pack in enumerate(documents):
            start = 0
            for ids, is_code, targets, described in pack:
                end = start + len(ids)
                input_ids[number, start:end] = ids
                position_ids[number, start:end] = np.arange(len(ids))
                places = np.arange(number * length + start, number * length + end)
                predicts_code = np.append(is_code[1:], False)
                code_places.append(places[predicts_code])
                text_places.append(places[~predicts_code])
                text_targets.append(targets[~predicts_code])
                is_described.append(described[~predicts_code])
                start = end
        text = np.concatenate(text_targets)
        num_codes, num_texts = codes.numel(), len(text)
        if shape:
            num_codes = shape.code_places
            num_texts = shape.text_places + -(-max(0, num_texts - shape.text_places) // LONGER) * LONGER
        return Batch(
            torch.from_numpy(input_ids),
            torch.from_numpy(position_ids),
            _padded(np.concatenate(code_places), num_codes, 0),
            _padded(codes.flatten().numpy(), num_codes, IGNORED),
            _padded(np.concatenate(text_places), num_texts, 0),
            _padded(text, num_texts, IGNORED),
            _padded(np.concatenate(is_described), num_texts, False),
        )

    def _piece(self, prompt: list[int], codes: Int[np.ndarray, " n"]) -> Piece:
        """The inputs of one row from `bos caption boi` and the ids of its codes, in one of the two orders."""
        before, after = prompt, [self.vocabulary.eoi]
        if self._draw(self.config.captioning):
            bos, *caption, boi = prompt
            before, after = [bos, boi], after + caption
        ids = np.concatenate([before, codes, after])
        is_code, is_described = np.zeros(len(ids), dtype=bool), np.zeros(len(ids), dtype=bool)
        end = len(before) + len(codes)
        is_code[len(before) : end] = True
        is_described[end:] = len(after) > 1  # the eos of a caption counts as part of it
        return Piece(ids, is_code, np.append(ids[1:], self.vocabulary.eos), is_described)

    @staticmethod
    def _draw(share: float) -> bool:
        return share > 0 and torch.rand(()).item() < share

    def _thin(self, caption: str | None) -> str | None:
        if caption is None:
            return None
        if self.config.varies_tags:
            caption = vary_tags(caption, self.config.keep_tags, self.config.tag_dropout, self.config.shuffle_tags)
        words = caption.split()
        kept = [
            word
            for word, draw in zip(words, torch.rand(len(words)).tolist(), strict=True)
            if draw >= self.config.word_dropout
        ]
        return " ".join(kept or words)

    def _disturb(self, codes: Tensor) -> Tensor:
        rate = torch.rand(len(codes), 1) * self.config.code_noise
        random_codes = torch.randint(self.vocabulary.image.size, codes.shape)
        return torch.where(torch.rand(codes.shape) < rate, random_codes, codes)


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Several rows as one document: only the first keeps its bos, and each predicts the beginning of the next, unless a
    caption ends it."""
    for piece, following in zip(pieces, pieces[1:], strict=False):
        if not piece.is_described[-1]:
            piece.targets[-1] = following.ids[1]
    kept = [Piece(*(part[number > 0 :] for part in piece)) for number, piece in enumerate(pieces)]
    return [Piece(*map(np.concatenate, zip(*kept, strict=True)))] if kept else []


def _padded(values: np.ndarray, length: int, value: int | bool) -> Tensor:
    return torch.from_numpy(np.append(values, np.full(length - len(values), value, values.dtype)))
