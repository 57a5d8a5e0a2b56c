"""Rows that a language model trains on, built while batching from captions and codes.

    pad ... pad  bos caption boi codes eoi eos

Captions are padded on the left, so that the codes of every row stand in the same columns.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from data_prep.vocabulary import Vocabulary
from training.errors import UserError

IGNORED = -100
PROMPT_BRACKETS = 2  # bos boi


@dataclass
class SequenceConfig:
    """What is left out of or changed in a row before the model sees it. None of it touches the codes' targets.

    Args:
        caption_dropout: share of rows without a caption; they teach the unconditional picture that guidance needs.
        word_dropout: share of the words left out of a caption.
        code_noise: each row draws a rate up to this; that share of its input codes is replaced by random ones.
    """

    caption_dropout: float = 0.1
    word_dropout: float = 0.0
    code_noise: float = 0.2

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise UserError(f"{name} must lie in [0, 1], found {value}.")


@dataclass
class Batch:
    """input_ids, labels (IGNORED where padded), position_ids: (B, T) int64; attention_mask: (B, T) bool."""

    input_ids: Int[Tensor, "b t"]
    labels: Int[Tensor, "b t"]
    position_ids: Int[Tensor, "b t"]
    attention_mask: Bool[Tensor, "b t"]

    def to(self, device: torch.device) -> "Batch":
        """The same on `device`."""
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})


def left_pad(rows: list[list[int]], pad: int, length: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of different lengths -> input_ids, attention_mask (bool) and position_ids, each (B, T).

    Positions count from a row's first real token. `length` is the least T.
    """
    length = max([length or 0, *map(len, rows)])
    input_ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows], dtype=torch.int64)
    starts = torch.tensor([length - len(row) for row in rows])
    columns = torch.arange(length)
    position_ids = (columns - starts.unsqueeze(1)).clamp(min=0)
    return input_ids, columns >= starts.unsqueeze(1), position_ids


def prompt_ids(vocabulary: Vocabulary, captions: list[str | None], max_tokens: int) -> list[list[int]]:
    """`bos caption boi` for each caption, truncated to `max_tokens`; `bos boi` for None or an empty one."""
    texts = iter(vocabulary.encode_text([caption for caption in captions if caption]))
    return [[vocabulary.bos, *(next(texts)[:max_tokens] if caption else []), vocabulary.boi] for caption in captions]


class TextToImageCollator:
    """Rows {caption, codes} -> a `Batch` of `bos caption boi codes eoi eos`.

    `max_caption_tokens` fixes the width of the caption's columns; longer captions are cut. `config=None` changes
    nothing in a row, which is how held-out rows are read.
    """

    def __init__(self, vocabulary: Vocabulary, max_caption_tokens: int, config: SequenceConfig | None):
        self.vocabulary, self.max_caption_tokens = vocabulary, max_caption_tokens
        self.config = config or SequenceConfig(caption_dropout=0.0, word_dropout=0.0, code_noise=0.0)

    def __call__(self, rows: list[dict]) -> Batch:
        vocabulary = self.vocabulary
        captions = [self._thin(row["caption"]) for row in rows]
        prompts = prompt_ids(vocabulary, captions, self.max_caption_tokens)
        prefix, mask, positions = left_pad(prompts, vocabulary.pad, self.max_caption_tokens + PROMPT_BRACKETS)
        codes = torch.stack([torch.as_tensor(row["codes"], dtype=torch.int64) for row in rows])  # (B, N)
        ends = torch.tensor([[vocabulary.eoi, vocabulary.eos]]).expand(len(rows), -1)
        clean = torch.cat([prefix, vocabulary.codes_to_ids(codes), ends], 1)  # (B, T)
        noisy = torch.cat([prefix, vocabulary.codes_to_ids(self._disturb(codes)), ends], 1)
        added = clean.shape[1] - prefix.shape[1]
        mask = torch.cat([mask, mask.new_ones(len(rows), added)], 1)
        positions = torch.cat([positions, positions[:, -1:] + torch.arange(1, added + 1)], 1)
        return Batch(noisy, clean.masked_fill(~mask, IGNORED), positions, mask)

    def _thin(self, caption: str) -> str | None:
        if torch.rand(()) < self.config.caption_dropout:
            return None
        words = caption.split()
        kept = [
            word for word, draw in zip(words, torch.rand(len(words)), strict=True) if draw >= self.config.word_dropout
        ]
        return " ".join(kept or words)

    def _disturb(self, codes: Tensor) -> Tensor:
        rate = torch.rand(len(codes), 1) * self.config.code_noise
        random_codes = torch.randint(self.vocabulary.image.size, codes.shape)
        return torch.where(torch.rand(codes.shape) < rate, random_codes, codes)
