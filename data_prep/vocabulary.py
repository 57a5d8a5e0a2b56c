"""The one vocabulary: caption tokens and the codes of every other modality. The only owner of ids.

    [ text: pad bos eos, bytes, merges | boi eoi, image codes | ... further modalities ]

The range that is called the image's is that of the image tokenizer's codes, whatever it shows: it is named "series",
"image" or "volume" by its number of dimensions.

Codes are [0, K) and belong to a modality; ids are vocabulary ids. The tokenizer is a stock one, in which codes are
tokens too; the ranges stand beside it in `vocabulary.json` and are never read off a token's name.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxtyping import Int
from tokenizers import AddedToken, Tokenizer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from vqlm.data_prep.settings import TextConfig
from vqlm.data_prep.text import build_text_tokenizer
from vqlm.training.errors import UserError
from vqlm.training.files import read_json, write_json

RANGES_FILE = "vocabulary.json"
# Of the range of an image tokenizer's codes, by its number of spatial dimensions.
NAMES = {1: "series", 2: "image", 3: "volume"}


@dataclass(frozen=True)
class Modality:
    """One contiguous range of ids: `begin`, `end`, then `size` codes from `offset` on."""

    name: str
    begin: int
    end: int
    offset: int
    size: int

    @property
    def stop(self) -> int:
        """One past the last id."""
        return self.offset + self.size


class Vocabulary:
    """Text and modalities in one id space, over a stock tokenizer.

    `tokenizer` is what `AutoTokenizer` loads. `text_size` ids are text, special tokens `pad`, `bos`, `eos` among
    them; `modalities` follow, the image tokenizer's first.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text_size: int, modalities: Iterable[Modality]):
        self.tokenizer, self.text_size = tokenizer, text_size
        self.modalities = {modality.name: modality for modality in modalities}
        pad, bos, eos = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
        assert isinstance(pad, int), pad
        assert isinstance(bos, int), bos
        assert isinstance(eos, int), eos
        self.pad, self.bos, self.eos = pad, bos, eos
        if len(tokenizer) != self.size:
            raise UserError(
                f"The tokenizer has {len(tokenizer)} ids, {RANGES_FILE} describes {self.size}; they are not of one set."
            )

    @classmethod
    def build(cls, captions: Iterable[str], text: TextConfig, codebook_sizes: dict[str, int]) -> "Vocabulary":
        """Text ids as `text` says, then a range for each modality's codes. Raises UserError as its parts do."""
        return cls.extend(build_text_tokenizer(captions, text), codebook_sizes)

    @classmethod
    def train(cls, captions: Iterable[str], text_size: int, codebook_sizes: dict[str, int]) -> "Vocabulary":
        """Byte-level BPE of at most `text_size` ids, then a range for each modality's codes."""
        return cls.build(captions, TextConfig(size=text_size), codebook_sizes)

    @classmethod
    def extend(cls, tokenizer: PreTrainedTokenizerBase, codebook_sizes: dict[str, int]) -> "Vocabulary":
        """Append a range for each modality to a tokenizer that has pad, bos and eos."""
        text_size, modalities = len(tokenizer), []
        for name, size in codebook_sizes.items():
            if not name.isidentifier() or size < 1:
                raise UserError(
                    f"A modality is a word and its number of codes, such as series: 512; found {name}: {size}."
                )
            begin = len(tokenizer)
            contents = [f"<{name}>", f"</{name}>", *(f"<{name}_{code}>" for code in range(size))]
            tokens = [AddedToken(content, special=True, normalized=False) for content in contents]
            if tokenizer.add_tokens(tokens, special_tokens=True) != len(tokens):  # type: ignore[arg-type]
                raise UserError(f"The tokenizer already has tokens of the modality {name!r}; choose another name.")
            modalities.append(Modality(name, begin, begin + 1, begin + 2, size))
        return cls(tokenizer, text_size, modalities)

    # Ids

    @property
    def size(self) -> int:
        return max((modality.stop for modality in self.modalities.values()), default=self.text_size)

    @property
    def image(self) -> Modality:
        """The range of the image tokenizer's codes, whatever its name."""
        return next(iter(self.modalities.values()))

    @property
    def boi(self) -> int:
        return self.image.begin

    @property
    def eoi(self) -> int:
        return self.image.end

    @property
    def image_token_offset(self) -> int:
        return self.image.offset

    def encode_text(self, texts: list[str]) -> list[list[int]]:
        """Caption ids, no special tokens. A caption that spells a special token stays plain text."""
        if not texts:
            return []
        return self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def count_tokens(self, texts: list[str]) -> list[int]:
        """How many ids `encode_text` gives for each text, without making them Python's."""
        backend: Tokenizer = self.tokenizer.backend_tokenizer  # type: ignore[assignment]
        backend.encode_special_tokens = True
        return [len(encoded) for encoded in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode_text(self, ids: list[int]) -> str:
        """The inverse of `encode_text`; special tokens and codes are left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def codes_to_ids(self, codes: Int[Tensor, "*shape"], modality: str | None = None) -> Int[Tensor, "*shape"]:
        """[0, K) -> vocabulary ids, by default of the image tokenizer's range. Raises UserError for other codes."""
        known = self.modalities[modality] if modality else self.image
        self._check_range(codes, 0, known.size, f"{known.name} codes")
        return codes.long() + known.offset

    def ids_to_codes(self, ids: Int[Tensor, "*shape"], modality: str | None = None) -> Int[Tensor, "*shape"]:
        """Vocabulary ids -> [0, K). Raises UserError for an id that is no code of this modality."""
        known = self.modalities[modality] if modality else self.image
        self._check_range(ids, known.offset, known.stop, f"{known.name} ids")
        return ids.long() - known.offset

    @staticmethod
    def _check_range(values: Tensor, low: int, high: int, what: str) -> None:
        if values.numel() and (values.min() < low or values.max() >= high):
            raise UserError(f"{what} must lie in [{low}, {high}), found {int(values.min())} to {int(values.max())}.")

    # Files

    def save_pretrained(self, folder: Path | str) -> None:
        """The stock tokenizer's files and the ranges, in `folder`."""
        self.tokenizer.save_pretrained(str(folder))
        write_json(Path(folder) / RANGES_FILE, self._ranges())

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "Vocabulary":
        """Raises UserError for a folder without a vocabulary, or whose tokenizer is of another."""
        ranges = read_json(Path(folder) / RANGES_FILE)
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        return cls(tokenizer, ranges["text_size"], [Modality(**modality) for modality in ranges["modalities"]])

    def fingerprint(self) -> str:
        """16 hex digits that name every token, its id and the ranges."""
        described = self._ranges() | {"tokens": sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    def _ranges(self) -> dict:
        return {
            "text_size": self.text_size,
            "modalities": [asdict(modality) for modality in self.modalities.values()],
        }
