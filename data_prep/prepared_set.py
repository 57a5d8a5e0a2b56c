"""A prepared set on disk, each part checked against the manifest.

R/data/
  manifest.json       counts, shapes, the checksum of every shard, the fingerprints of collection and tokenizers
  vocabulary/         the stock tokenizer and its ranges
  image_tokenizer/    a copy of the VQ-VAE
  shards/000000/ ...  rows as Arrow files, one file per split; see data_prep/encoding.py
  skipped.jsonl       rows that could not be used, with reasons
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from datasets import Dataset, Image, concatenate_datasets
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vqlm.data_prep.captions.wording import compared_form
from vqlm.data_prep.splits import TRAIN
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.training.errors import UserError
from vqlm.training.folders.folder_kinds import require_kind
from vqlm.training.folders.same_run import require_match
from vqlm.training.folders.whole_files import checksum_of, read_json
from vqlm.vq import VQVAE, load_image_tokenizer

MANIFEST = "manifest.json"
SHARDS = "shards"
CAPTIONS_READ = 65_536  # rows at a time
# Version of the manifest. A set of another version must be prepared again.
FORM = 2


@dataclass
class PreparedSet:
    """Captions and codes of a collection, with the tokenizers that encoded them. Rows stay on disk.

    Args:
        folder: where it lies.
        manifest: the content of manifest.json.
        vocabulary: the one vocabulary of captions and codes.
        rows: by split, a data set of {key, captions, caption_tokens, codes}; `codes` are flat, `tokens_per_image` for
            each of `num_views` views. Held-out splits also have {image}, which is None in most rows of a large set.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from vqlm import VQVAE, NetworkConfig, PreparedSet, VQVAEConfig, load_collection, prepare
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> np.savez(folder / "series.npz", values=np.zeros((20, 1, 16), np.uint8), captions=["flat"] * 20)
        >>> image_tokenizer = VQVAE(VQVAEConfig(network=NetworkConfig(input_shape=[16], in_channels=1, strides=[2, 2])))
        >>> collection = load_collection(str(folder / "series.npz"))
        >>> _ = prepare(collection, image_tokenizer, folder / "data", "series", num_workers=0)
        >>> prepared = PreparedSet.load(folder / "data")
        >>> prepared.codes_of(prepared.held_out["held_out"]).shape
        torch.Size([1, 4])
    """

    folder: Path
    manifest: dict[str, Any]
    vocabulary: Vocabulary
    rows: dict[str, Dataset]

    @classmethod
    def load(cls, folder: Path | str, verify: bool = True) -> "PreparedSet":
        """Open a prepared set.

        Args:
            folder: what `prepare` wrote.
            verify: whether to read every shard once and compare its checksum with the manifest.

        Returns:
            The prepared set; its rows stay on disk.

        Raises:
            UserError: the set is not finished, a part is missing or was changed, or a part belongs to another set.

        Example:
            >>> import pathlib, tempfile
            >>> from vqlm import PreparedSet, load_collection, prepare
            >>> folder = pathlib.Path(tempfile.mkdtemp())
            >>> collection = load_collection("pictures")
            >>> _ = prepare(collection, pipe.image_tokenizer, folder / "data", "pictures", num_workers=0)
            >>> prepared = PreparedSet.load(folder / "data")
            >>> prepared.train.column_names
            ['key', 'captions', 'caption_tokens', 'codes']
        """
        folder = Path(folder)
        if not (folder / MANIFEST).exists() and (folder / SHARDS).is_dir():
            raise UserError(f"{folder} is not finished; continue preparing it with `resume`.")
        require_kind(folder, "prepared set")
        manifest = read_json(folder / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("form") != FORM:
            raise UserError(f"{folder} was prepared by another version of vqlm; prepare it again.")
        vocabulary = Vocabulary.from_pretrained(folder / "vocabulary")
        try:
            rows = cls._open(folder, manifest, vocabulary, verify)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{folder / MANIFEST} is not as it was written ({type(error).__name__}: {error}); copy the folder "
                "again, or remove the file and continue preparing with `resume`."
            ) from None
        return cls(folder, manifest, vocabulary, rows)

    @staticmethod
    def _open(folder: Path, manifest: dict[str, Any], vocabulary: Vocabulary, verify: bool) -> dict[str, Dataset]:
        require_match(
            f"{folder / 'vocabulary'} has",
            vocabulary.fingerprint(),
            f"{MANIFEST} was written with",
            manifest["vocabulary"],
        )
        if verify:
            _verify(folder, manifest["shards"])
        rows = {}
        for split in manifest["splits"]:
            names = [shard["folder"] for shard in manifest["shards"] if split in shard["rows"]]
            paths = [folder / SHARDS / name / f"{split}.arrow" for name in names]
            _require_files(paths)
            rows[split] = concatenate_datasets([Dataset.from_file(str(path)) for path in paths])
        return rows

    def load_image_tokenizer(self) -> VQVAE:
        """Load the VQ-VAE that encoded the pictures.

        Returns:
            The model in evaluation mode, on the CPU.

        Raises:
            UserError: the folder holds another one, or none.

        Example:
            >>> import pathlib, tempfile
            >>> from vqlm import load_collection, prepare
            >>> output = pathlib.Path(tempfile.mkdtemp()) / "data"
            >>> prepared = prepare(load_collection("pictures"), pipe.image_tokenizer, output, "pictures", num_workers=0)
            >>> prepared.load_image_tokenizer().fingerprint() == pipe.image_tokenizer.fingerprint()
            True
        """
        folder = self.folder / "image_tokenizer"
        image_tokenizer = load_image_tokenizer(folder)
        expected = self.manifest["made_from"]["image_tokenizer"]
        require_match(f"{folder} holds image tokenizer", image_tokenizer.fingerprint(), f"{MANIFEST} names", expected)
        return image_tokenizer

    @property
    def train(self) -> Dataset:
        return self.rows[TRAIN]

    @property
    def held_out(self) -> dict[str, Dataset]:
        return {split: rows for split, rows in self.rows.items() if split != TRAIN}

    @property
    def tokens_per_image(self) -> int:
        return self.manifest["tokens_per_image"]

    @property
    def num_views(self) -> int:
        return self.manifest["made_from"]["views"]["views"]

    def codes_of(self, rows: Dataset) -> Int[Tensor, "n tokens_per_image"]:
        """The codes of the first view of each row.

        Args:
            rows: N rows of one of the splits.

        Returns:
            (N, tokens_per_image) int64 in [0, K).

        Example:
            >>> import pathlib, tempfile
            >>> from vqlm import load_collection, prepare
            >>> output = pathlib.Path(tempfile.mkdtemp()) / "data"
            >>> prepared = prepare(load_collection("pictures"), pipe.image_tokenizer, output, "pictures", num_workers=0)
            >>> prepared.codes_of(prepared.train).shape == (len(prepared.train), prepared.tokens_per_image)
            True
        """
        codes = np.asarray(rows.with_format("numpy")["codes"][:])
        return torch.as_tensor(codes[:, : self.tokens_per_image].astype(np.int64))

    def code_parts(self, rows: Dataset, size: int) -> Iterator[Int[Tensor, "n tokens_per_image"]]:
        """`codes_of`, part by part, for splits whose codes do not fit into memory.

        Args:
            rows: rows of one of the splits.
            size: rows per part.

        Returns:
            An iterator of (size, tokens_per_image) int64; the last part may be shorter.

        Example:
            >>> import pathlib, tempfile
            >>> from vqlm import load_collection, prepare
            >>> output = pathlib.Path(tempfile.mkdtemp()) / "data"
            >>> prepared = prepare(load_collection("pictures"), pipe.image_tokenizer, output, "pictures", num_workers=0)
            >>> sum(len(part) for part in prepared.code_parts(prepared.train, 5)) == len(prepared.train)
            True
        """
        for start in range(0, len(rows), size):
            yield self.codes_of(rows.select(range(start, min(start + size, len(rows)))))

    def seen_prompts(self) -> dict[str, int]:
        """By held-out split, how many rows have a first caption that is also trained on, with other pictures.

        Case, spaces and a full stop at the end do not make a caption another one.
        """
        prompts = {
            split: [compared_form(captions[0]) for captions in rows["captions"][:]]
            for split, rows in self.held_out.items()
        }
        wanted = {prompt for of_split in prompts.values() for prompt in of_split}
        seen: set[str] = set()
        for table in self.train.select_columns(["captions"]).with_format("arrow").iter(CAPTIONS_READ):
            assert isinstance(table, pyarrow.Table)
            distinct = table["captions"].combine_chunks().flatten().unique().to_pylist()  # type: ignore[index]
            seen.update(wanted.intersection(map(compared_form, distinct)))
        return {split: sum(prompt in seen for prompt in of_split) for split, of_split in prompts.items()}

    def pictured(self, split: str, most: int) -> Dataset:
        """Rows of a held-out split that hold their picture, evenly spaced over it.

        Args:
            split: name of the split.
            most: the most rows.

        Returns:
            Up to `most` rows, with the column `image`.

        Example:
            >>> import pathlib, tempfile
            >>> from vqlm import load_collection, prepare
            >>> output = pathlib.Path(tempfile.mkdtemp()) / "data"
            >>> prepared = prepare(load_collection("pictures"), pipe.image_tokenizer, output, "pictures", num_workers=0)
            >>> len(prepared.pictured("held_out", 1))
            1
        """
        rows = self.rows[split]
        table = rows.select_columns(["image"]).with_format("arrow")[:]
        assert isinstance(table, pyarrow.Table)
        kept = np.flatnonzero(table["image"].is_valid().to_numpy())
        return rows.select(kept[spread(len(kept), most)])


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` numbers below `count`, evenly spaced."""
    wanted = min(count, wanted)
    return [number * count // wanted for number in range(wanted)]


def pictures_of(rows: Dataset) -> UInt8[Tensor, "n c *shape"] | Float[Tensor, "n c *shape"]:
    """The pictures or arrays of held-out `rows`, as the tokenizer saw them."""
    feature = rows.features["image"]
    if not isinstance(feature, Image):
        arrays = np.stack(list(rows.with_format("numpy")["image"][:]))  # type: ignore[index]
        return torch.from_numpy(arrays.astype(feature.dtype))  # type: ignore[union-attr]
    return torch.stack([torch.from_numpy(np.array(row["image"])).permute(2, 0, 1) for row in rows])  # type: ignore[index]


def _require_files(paths: Iterable[Path]) -> None:
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(
            f"{missing[0]} is missing, which {MANIFEST} names; copy the folder again, or remove {MANIFEST} and "
            "continue preparing it with `resume`."
        )


def _verify(folder: Path, shards: list[dict[str, Any]]) -> None:
    expected = {
        folder / SHARDS / shard["folder"] / f"{split}.arrow": checksum
        for shard in shards
        for split, checksum in shard["sha256"].items()
    }
    _require_files(expected)
    with ThreadPoolExecutor() as pool:
        for path, checksum in zip(expected, pool.map(checksum_of, expected), strict=True):
            if checksum != expected[path]:
                raise UserError(
                    f"{path} was changed after it was written: its SHA-256 is {checksum[:16]}..., {MANIFEST} says "
                    f"{expected[path][:16]}... Copy it again, or remove {path.parent} and {MANIFEST} and continue "
                    "preparing with `resume`."
                )
