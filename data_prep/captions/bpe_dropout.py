"""BPE dropout (Provilkov et al. 2020, arXiv 1910.13267): a word is split differently each time it is read.

The `tokenizers` library offers it too, but its random generator cannot be seeded: a resumed training would differ from
an uninterrupted one. Here torch's generator draws.
"""

import json

import torch
from tokenizers import Tokenizer

from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.training.errors import UserError


class BPEDropout:
    """Encodes captions as `Vocabulary.encode_text` does, but skips each possible merge with probability `rate`.

    Raises UserError for a tokenizer that is not BPE.
    """

    def __init__(self, vocabulary: Vocabulary, rate: float):
        self.vocabulary, self.rate = vocabulary, rate
        self.backend: Tokenizer = vocabulary.tokenizer.backend_tokenizer  # type: ignore[assignment]
        model = json.loads(self.backend.to_str())["model"]
        if model["type"] != "BPE" or model.get("ignore_merges"):
            raise UserError(f"`sequences.bpe_dropout` needs a BPE tokenizer, found {model['type']}; set it to 0.")
        self.ids: dict[str, int] = model["vocab"]
        self.unknown = model.get("unk_token")
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}

    def encode_text(self, texts: list[str]) -> list[list[int]]:
        """Caption ids without special tokens, in the form of `Vocabulary.encode_text`."""
        return [[id for word in self._words(text) for id in self._ids_of(self._merge(list(word)))] for text in texts]

    def _words(self, text: str) -> list[str]:
        normalizer, splitter = self.backend.normalizer, self.backend.pre_tokenizer
        text = normalizer.normalize_str(text) if normalizer else text
        return [word for word, _ in splitter.pre_tokenize_str(text)] if splitter else [text]

    def _merge(self, parts: list[str]) -> list[str]:
        while len(parts) > 1:
            merges = [(rank, place) for place, pair in enumerate(zip(parts, parts[1:], strict=False))
                      if (rank := self.ranks.get(pair)) is not None]  # fmt: skip
            if self.rate and merges:
                kept = torch.rand(len(merges)) >= self.rate
                merges = [merge for merge, is_kept in zip(merges, kept.tolist(), strict=True) if is_kept]
            if not merges:
                break
            _, place = min(merges)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        return parts

    def _ids_of(self, parts: list[str]) -> list[int]:
        return [self.ids[part] if part in self.ids else self.ids[self.unknown] for part in parts]
