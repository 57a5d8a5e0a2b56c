"""Opens the collection that a string names, as captioned rows, and splits it into training and held-out rows."""

import glob
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import Features, Image, IterableDataset, List, Value
from PIL import Image as PILImage
from vqlm.data_prep.rows import Row, Shard, Unusable, digest_of, join_shards, read_all
from vqlm.data_prep.settings import DATA_HELP, CollectionConfig
from vqlm.data_prep.sources.arrays import array_shards
from vqlm.data_prep.sources.folder import folder_shards
from vqlm.data_prep.sources.openmoji import ATTRIBUTION, SPLITS, openmoji_shards
from vqlm.data_prep.sources.tables import hub_shards, parquet_shards
from vqlm.data_prep.sources.webdataset import tar_shards
from vqlm.data_prep.splits import hash_share, is_held_out
from vqlm.training.errors import UserError

TRAIN = "train"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# With fewer rows than this the hash may hold out none of them.
SMALL = 200


@dataclass
class Collection:
    """Shards of rows, not yet read.

    Attributes:
        shards: the parts of the collection.
        config: how it is read.
        held_out_names: the splits that no stage trains on.
        splits: the split of each key; None where a hash of the key decides.
        array_shape: None for pictures, (C, *shape) for arrays.
        attribution: the licence line that every model trained on this collection carries.
    """

    shards: list[Shard]
    config: CollectionConfig = field(default_factory=CollectionConfig)
    held_out_names: tuple[str, ...] = ("held_out",)
    splits: dict[str, str] | None = None
    array_shape: tuple[int, ...] | None = None
    attribution: str | None = None

    def __post_init__(self):
        if self.splits is None:
            self.splits = _splits_of_few(self)

    @property
    def split_names(self) -> list[str]:
        return [TRAIN, *self.held_out_names]

    def split_of(self, key: str) -> str:
        if self.splits is not None:
            return self.splits[key]
        return self.held_out_names[0] if is_held_out(key) else TRAIN

    def rows(self, split: str | None = None) -> Iterator[Row]:
        """The usable rows of one split, or of all, in order and not decoded."""
        return _usable(self.shards, split, self.split_of)

    def dataset(self, split: str | None = None) -> IterableDataset:
        """The same rows {image, captions, key} as a streamed data set of `datasets`, with the same shards."""
        if self.array_shape is not None:
            raise UserError("A data set holds pictures only; read arrays from their .npz file.")
        features = Features({"image": Image(), "captions": List(Value("string")), "key": Value("string")})
        arguments = {"shards": self.shards, "split": split, "split_of": self.split_of}
        return IterableDataset.from_generator(_examples, features=features, gen_kwargs=arguments)  # type: ignore[return-value]

    def fingerprint(self) -> str:
        """16 hex digits that depend on the content of the shards and on how they are read."""
        settings = asdict(self.config) | {"max_skipped": None}
        return digest_of([settings, *((shard.name, shard.stamp) for shard in self.shards)])


def _usable(shards: list[Shard], split: str | None, split_of: Callable[[str], str]) -> Iterator[Row]:
    return (row for row in read_all(shards) if isinstance(row, Row) and split in (None, split_of(row.key)))


def _examples(shards: list[Shard], split: str | None, split_of: Callable[[str], str]) -> Iterator[dict[str, Any]]:
    for row in _usable(shards, split, split_of):
        is_file = isinstance(row.image, Path)
        image = {"path": str(row.image), "bytes": None} if is_file else {"path": None, "bytes": row.image}
        yield {"image": image, "captions": list(row.captions), "key": row.key}


def load_collection(data: str, image_size: int = 64, config: CollectionConfig | None = None) -> Collection:
    """Open a collection. Only names, captions and sizes are read.

    Args:
        data: one of the forms in `DATA_HELP`.
        image_size: side in pixels at which OpenMoji is drawn; other pictures keep their size.
        config: how the collection is read.

    Returns:
        The collection, its rows not yet read.

    Raises:
        UserError: `data` is none of the forms, or has fewer than two usable rows.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> from vqlm import load_collection
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("cat", "dog", "owl"):
        ...     Image.new("RGB", (40, 30)).save(folder / f"{name}.png")
        ...     _ = (folder / f"{name}.txt").write_text(f"a {name}", encoding="utf-8")
        >>> [(row.key, row.captions) for row in load_collection(str(folder)).rows()]
        [('cat.png', ('a cat',)), ('dog.png', ('a dog',)), ('owl.png', ('a owl',))]
    """
    config = config or CollectionConfig()
    PILImage.MAX_IMAGE_PIXELS = config.max_pixels
    # Pillow would warn of pictures that are refused here with a reason.
    warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
    kind, _, rest = data.partition(":")
    if kind == "openmoji":
        shards, splits = openmoji_shards(image_size, rest)
        return Collection(shards, config, SPLITS, splits, attribution=ATTRIBUTION)
    if kind == "hf" and rest:
        return Collection(hub_shards(rest, config.columns, config.class_template), config)
    place = Path(data)
    if place.is_file() and place.suffix == ".npz":
        shards, shape = array_shards(place)
        return Collection(shards, config, array_shape=shape)
    files = [Path(name) for name in ([data] if place.is_file() else glob.glob(data, recursive=True))]
    if place.is_dir():
        inside = [path for path in sorted(place.iterdir()) if path.is_file()]
        files = [path for path in inside if path.name.endswith((*TAR_SUFFIXES, ".parquet"))]
        if any(path.name.startswith("metadata.") for path in inside) or not files:
            return Collection(folder_shards(place, config.class_template, config.columns), config)
    if tars := [path for path in files if path.name.endswith(TAR_SUFFIXES)]:
        return Collection(join_shards(tar_shards(tars, config.caption_column)), config)
    if tables := [path for path in files if path.suffix == ".parquet"]:
        return Collection(join_shards(parquet_shards(tables, config.columns)), config)
    if not place.exists() and not glob.has_magic(data) and ":" not in data:
        raise UserError(f"there is no folder {data} here; `data` must be {DATA_HELP[:-1]}.")
    raise UserError(f"`data` must be {DATA_HELP[:-1]}; {data!r} is none of them.")


def _splits_of_few(collection: Collection) -> dict[str, str] | None:
    """The splits of a collection so small that the hash might hold out none or all of it; None for larger ones."""
    rows: list[Row] = []
    unusable: list[Unusable] = []
    for row in read_all(collection.shards):
        if isinstance(row, Unusable):
            unusable.append(row)
            continue
        rows.append(row)
        if len(rows) == SMALL:
            return None
    keys = [row.key for row in rows]
    if len(keys) < 2:
        reason = f"; {unusable[0].key}: {unusable[0].reason}" if unusable else ""
        raise UserError(
            f"The collection holds {len(keys)} captioned picture{'' if len(keys) == 1 else 's'} that can be used; at "
            f"least 2 are needed, since one is held out{reason}."
        )
    held_out = {key for key in keys if is_held_out(key)} or {min(keys, key=hash_share)}
    if len(held_out) == len(keys):
        held_out = {min(keys, key=hash_share)}
    names = collection.held_out_names
    return {key: names[0] if key in held_out else TRAIN for key in keys}
