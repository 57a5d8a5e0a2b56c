"""Series, sound, volumes and clips: captioned arrays in an .npz file."""

import functools
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from vqlm.data_prep.captions.wording import normalize_caption
from vqlm.data_prep.sources.rows import Row, Shard, Unusable, row_or_reason, rows_per_shard
from vqlm.training.errors import UserError

MAX_SPATIAL_DIMS = 3


def array_shards(path: Path, needs_captions: bool = True) -> tuple[list[Shard], tuple[int, ...]]:
    """The shards of an .npz file, and the shape (C, *shape) of its arrays.

    The file holds `values` (N, C, *shape), uint8 or floating point in [-1, 1], and `captions` (N,). A series is
    (N, C, T), a volume (N, C, D, H, W), a clip the same with its frames as depth. The key of a row is its number.
    `captions` may be missing without `needs_captions`. Raises UserError for a file without these arrays, another shape,
    or other values.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = {"values", *(["captions"] if needs_captions else [])} - set(file.files)
            if missing:
                raise UserError(f"{path} must hold the arrays values and captions; it holds {', '.join(file.files)}.")
            values = file["values"]
            written = np.ravel(file["captions"]).astype(str) if "captions" in file.files else [""] * len(values)
            captions = [normalize_caption(str(caption)) for caption in written]
    except UserError:
        raise
    except (OSError, EOFError, TypeError, ValueError, BadZipFile, zlib.error) as error:  # TypeError: an .npy file
        raise UserError(f"{path} cannot be read as .npz ({error}); write it with numpy.savez.") from None
    _check(path, values, captions, needs_captions)
    if values.dtype != np.uint8:
        values = values.astype(np.float32)
    size = rows_per_shard(len(values))
    return [
        Shard(
            f"rows-{start:09}",
            functools.partial(_read, values[start : start + size], captions[start : start + size], start),
            hashlib.sha256(
                values[start : start + size].tobytes() + repr(captions[start : start + size]).encode()
            ).hexdigest()[:16],
        )
        for start in range(0, len(values), size)
    ], values.shape[1:]


def _read(values: np.ndarray, captions: list[str], start: int) -> Iterator[Row | Unusable]:
    for number, (value, caption) in enumerate(zip(values, captions, strict=True), start):
        yield row_or_reason(str(number), value, caption)


def _check(path: Path, values: np.ndarray, captions: list[str], needs_captions: bool) -> None:
    if not 1 <= values.ndim - 2 <= MAX_SPATIAL_DIMS or 0 in values.shape[1:]:
        raise UserError(f"{path}: values must be (N, C, *shape) of 1 to 3 dimensions, found shape {values.shape}.")
    if len(values) != len(captions) or len(values) < 2:
        raise UserError(f"{path}: {len(values)} values and {len(captions)} captions; at least 2 of each are needed.")
    if needs_captions and (empty := [number for number, caption in enumerate(captions) if not caption]):
        raise UserError(f"{path}: caption {empty[0]} is empty; write one or leave the row out.")
    if values.dtype == np.uint8:
        return
    if not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"{path}: values must be uint8 or floating point in [-1, 1], found {values.dtype}.")
    finite = np.isfinite(values).reshape(len(values), -1).all(1)
    if not finite.all():
        raise UserError(
            f"{path}: row {int(np.argmin(finite))} of values holds NaN or infinity; repair it or leave it out."
        )
    if np.abs(values).max() > 1:
        raise UserError(
            f"{path}: values must lie in [-1, 1], found {values.min():.3g} to {values.max():.3g}; scale them."
        )
