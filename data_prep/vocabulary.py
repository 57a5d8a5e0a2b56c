"""The one vocabulary: caption tokens and the codes of every other modality. The only owner of ids.

    [ text: pad bos eos, bytes, merges | boi eoi, image codes | ... further modalities ]

Codes are [0, K) and belong to a modality; ids are vocabulary ids. The tokenizer is a stock one; codes are tokens too.
The ranges are in `vocabulary.json` beside it and are never read from the names of tokens.

The first modality holds the codes of the image tokenizer. It is named "series", "image" or "volume" after the number of
dimensions; code that works with any of them calls it the image.
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

from vqlm.data_prep.captions.tokenizer import build_text_tokenizer
from vqlm.data_prep.settings import TextConfig
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json_object, require_no_pointer, write_json

RANGES_FILE, TOKENIZER_FILE = "vocabulary.json", "tokenizer.json"
# Name of the image tokenizer's modality by its number of spatial dimensions.
NAMES = {1: "series", 2: "image", 3: "volume"}


@dataclass(frozen=True)
class Modality:
    """One contiguous range of ids: `begin`, `end`, then `size` codes that start at `offset`."""

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

    Args:
        tokenizer: a stock tokenizer with one token per id, as `AutoTokenizer` loads it.
        text_size: number of text ids, including the special tokens pad, bos and eos.
        modalities: the ranges after the text, the image tokenizer's first.

    Raises:
        UserError: the tokenizer has more or fewer ids than the ranges describe.

    Example:
        >>> from vqlm import Vocabulary
        >>> vocabulary = Vocabulary.train(["red heart", "blue heart"], 300, {"image": 512})
        >>> vocabulary.decode_text(vocabulary.encode_text(["red heart"])[0])
        'red heart'
        >>> vocabulary.size - vocabulary.text_size  # boi, eoi and the codes
        514
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text_size: int, modalities: Iterable[Modality]):
        self.tokenizer, self.text_size = tokenizer, text_size
        self.modalities = {modality.name: modality for modality in modalities}
        pad, bos, eos = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
        if not (isinstance(pad, int) and isinstance(bos, int) and isinstance(eos, int)):
            raise UserError(
                f"The tokenizer must have the tokens pad, bos and eos, found {pad}, {bos} and {eos}; take its files "
                "from the folder that it was saved in."
            )
        self.pad, self.bos, self.eos = pad, bos, eos
        if len(tokenizer) != self.size:
            raise UserError(
                f"The tokenizer has {len(tokenizer)} ids, {RANGES_FILE} describes {self.size}; take both from one "
                "folder."
            )

    @classmethod
    def build(cls, captions: Iterable[str], text: TextConfig, codebook_sizes: dict[str, int]) -> "Vocabulary":
        """Train or load the text tokenizer and append a range of ids for each modality.

        Args:
            captions: what the BPE is trained on; not read where `text` names a pretrained tokenizer.
            text: how captions become ids.
            codebook_sizes: number of codes by name of the modality, the image tokenizer's first.

        Returns:
            The vocabulary: text ids first, then one range of ids for each modality.

        Raises:
            UserError: `text.size` is too small, `text.pretrained` cannot be loaded, or a modality is not valid.

        Example:
            >>> from vqlm import TextConfig, Vocabulary
            >>> vocabulary = Vocabulary.build(["red heart"], TextConfig(size=280), {"image": 16, "series": 8})
            >>> list(vocabulary.modalities)
            ['image', 'series']
        """
        return cls.extend(build_text_tokenizer(captions, text), codebook_sizes)

    @classmethod
    def train(cls, captions: Iterable[str], text_size: int, codebook_sizes: dict[str, int]) -> "Vocabulary":
        """`build` with a byte-level BPE and the default rules of captions.

        Args:
            captions: what the BPE is trained on.
            text_size: the most text ids.
            codebook_sizes: number of codes by name of the modality, the image tokenizer's first.

        Returns:
            The vocabulary, as of `build`.

        Raises:
            UserError: as `build` does.

        Example:
            >>> from vqlm import Vocabulary
            >>> Vocabulary.train(["ab"], 259, {"image": 16}).size  # bytes, three special ids, boi, eoi and 16 codes
            277
        """
        return cls.build(captions, TextConfig(size=text_size), codebook_sizes)

    @classmethod
    def extend(cls, tokenizer: PreTrainedTokenizerBase, codebook_sizes: dict[str, int]) -> "Vocabulary":
        """Append a range of ids for each modality to a tokenizer of text.

        Args:
            tokenizer: any tokenizer of transformers with pad, bos and eos; it is changed.
            codebook_sizes: number of codes by name of the modality, the image tokenizer's first.

        Returns:
            The vocabulary, whose tokenizer is the one given.

        Raises:
            UserError: a name is not a word, a size is below 1, or the tokenizer knows a name already.

        Example:
            >>> from vqlm import Vocabulary
            >>> tokenizer = Vocabulary.train(["ab"], 259, {}).tokenizer
            >>> Vocabulary.extend(tokenizer, {"series": 8}).image.name
            'series'
        """
        text_size, modalities = len(tokenizer), []
        for name, size in codebook_sizes.items():
            if not name.isidentifier() or size < 1:
                raise UserError(
                    f"A modality must be a word and its number of codes, such as series: 512; found {name}: {size}."
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
        """The range of the image tokenizer's codes, whatever its name is."""
        return next(iter(self.modalities.values()))

    @property
    def boi(self) -> int:
        return self.image.begin

    @property
    def eoi(self) -> int:
        return self.image.end

    def encode_text(self, texts: list[str]) -> list[list[int]]:
        """Caption ids without special tokens. A caption that spells a special token stays plain text.

        Args:
            texts: captions.

        Returns:
            One list of ids below `text_size` per caption.

        Example:
            >>> from vqlm import Vocabulary
            >>> vocabulary = Vocabulary.train(["ab"], 259, {"image": 16})  # bytes only, no merges
            >>> vocabulary.encode_text(["ab"])
            [[223, 67, 68]]
        """
        if not texts:
            return []
        return self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Number of ids that `encode_text` gives for each text, without Python lists of them."""
        backend: Tokenizer = self.tokenizer.backend_tokenizer  # type: ignore[assignment]
        backend.encode_special_tokens = True
        return [len(encoded) for encoded in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode_text(self, ids: list[int]) -> str:
        """The inverse of `encode_text`.

        Args:
            ids: of one caption.

        Returns:
            Its text, without special tokens and codes.

        Example:
            >>> from vqlm import Vocabulary
            >>> vocabulary = Vocabulary.train(["red heart"], 300, {"image": 16})
            >>> vocabulary.decode_text([vocabulary.bos, *vocabulary.encode_text(["red heart"])[0], vocabulary.boi])
            'red heart'
        """
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def codes_to_ids(self, codes: Int[Tensor, "*shape"], modality: str | None = None) -> Int[Tensor, "*shape"]:
        """Vocabulary ids of codes.

        Args:
            codes: integers of any shape in [0, K).
            modality: name of their modality, by default the image tokenizer's.

        Returns:
            int64 of the same shape.

        Raises:
            UserError: a code is outside [0, K).

        Example:
            >>> import torch
            >>> from vqlm import Vocabulary
            >>> vocabulary = Vocabulary.train(["ab"], 259, {"image": 16})
            >>> vocabulary.codes_to_ids(torch.tensor([0, 15]))  # after 259 text ids, boi and eoi
            tensor([261, 276])
        """
        used = self.modalities[modality] if modality else self.image
        self._check_range(codes, 0, used.size, f"{used.name} codes")
        return codes.long() + used.offset

    def ids_to_codes(self, ids: Int[Tensor, "*shape"], modality: str | None = None) -> Int[Tensor, "*shape"]:
        """The inverse of `codes_to_ids`.

        Args:
            ids: integers of any shape.
            modality: name of their modality, by default the image tokenizer's.

        Returns:
            Codes in [0, K), int64 of the same shape.

        Raises:
            UserError: an id is not a code of this modality.

        Example:
            >>> import torch
            >>> from vqlm import Vocabulary
            >>> vocabulary = Vocabulary.train(["ab"], 259, {"image": 16})
            >>> vocabulary.ids_to_codes(torch.tensor([261, 276]))
            tensor([ 0, 15])
        """
        used = self.modalities[modality] if modality else self.image
        self._check_range(ids, used.offset, used.stop, f"{used.name} ids")
        return ids.long() - used.offset

    @staticmethod
    def _check_range(values: Tensor, low: int, high: int, what: str) -> None:
        if values.numel() and (values.min() < low or values.max() >= high):
            raise UserError(f"{what} must lie in [{low}, {high}), found {int(values.min())} to {int(values.max())}.")

    # Files

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the stock tokenizer's files and the ranges, for `from_pretrained`.

        Args:
            folder: where to write them.

        Example:
            >>> from vqlm import Vocabulary
            >>> Vocabulary.train(["red heart"], 280, {"image": 16}).save_pretrained("my_vocabulary")
            >>> Vocabulary.from_pretrained("my_vocabulary").image.size
            16
        """
        self.tokenizer.save_pretrained(str(folder))
        write_json(Path(folder) / RANGES_FILE, self._ranges())

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "Vocabulary":
        """Load what `save_pretrained` wrote.

        Args:
            folder: a finished model's folder, or the `vocabulary` folder of a prepared set.

        Returns:
            The vocabulary, with the ids that it had.

        Raises:
            UserError: the folder holds no vocabulary, or a tokenizer of another one.

        Example:
            >>> import tempfile
            >>> from vqlm import Vocabulary
            >>> vocabulary = Vocabulary.train(["red heart"], 280, {"image": 16})
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     vocabulary.save_pretrained(folder)
            ...     loaded = Vocabulary.from_pretrained(folder)
            >>> loaded.fingerprint() == vocabulary.fingerprint()
            True
        """
        place = Path(folder)
        ranges, tokenizer_file = read_json_object(place / RANGES_FILE), place / TOKENIZER_FILE
        if not tokenizer_file.is_file():
            raise UserError(f"{tokenizer_file} is missing; check that {folder} is the right folder.")
        require_no_pointer(tokenizer_file)
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        except Exception as error:  # tokenizers raises Exception itself
            raise UserError(
                f"{tokenizer_file} and the files beside it hold no tokenizer that can be loaded "
                f"({type(error).__name__}: {' '.join(str(error).split())[:120]}); copy the whole folder again."
            ) from None
        try:
            return cls(tokenizer, ranges["text_size"], [Modality(**modality) for modality in ranges["modalities"]])
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{place / RANGES_FILE} is not as it was written ({type(error).__name__}: {error}); copy the whole "
                "folder again."
            ) from None

    def fingerprint(self) -> str:
        """16 hex digits that depend on every token, its id and the ranges."""
        described = self._ranges() | {"tokens": sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    def _ranges(self) -> dict:
        return {
            "text_size": self.text_size,
            "modalities": [asdict(modality) for modality in self.modalities.values()],
        }
