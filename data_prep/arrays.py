"""Series, sound, volumes and clips: labelled arrays in an .npz file. Knows nothing of codes."""

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from datasets import Array2D, Array3D, Array4D, Dataset, DatasetDict, Features, Value

from data_prep.splits import hash_share, is_held_out
from training.errors import UserError

ARRAY = {2: Array2D, 3: Array3D, 4: Array4D}


def load_arrays(path: Path) -> DatasetDict:
    """Splits `train` and `held_out` (a tenth by a hash of the number) of an .npz file.

    It holds `values` (N, C, *shape), uint8 or floating point in [-1, 1], and `captions` (N,): a series is (N, C, T), a
    volume (N, C, D, H, W), a clip the same with its frames as depth. Rows are {image, caption, key} as everywhere.
    Raises UserError for a file without them, of another shape, or with other values.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = {"values", "captions"} - set(file.files)
            if missing:
                raise UserError(f"{path} must hold the arrays values and captions; it holds {', '.join(file.files)}.")
            values = file["values"]
            captions = [" ".join(str(caption).split()) for caption in np.ravel(file["captions"]).astype(str)]
    except UserError:
        raise
    except (OSError, EOFError, TypeError, ValueError, BadZipFile, zlib.error) as error:  # TypeError: an .npy file
        raise UserError(f"{path} cannot be read as .npz ({error}); write it with numpy.savez.") from None
    _check(path, values, captions)
    if values.dtype != np.uint8:
        values = values.astype(np.float32)
    keys = [str(number) for number in range(len(values))]
    held_out = {key for key in keys if is_held_out(key)} or {min(keys, key=hash_share)}
    kind = ARRAY[values.ndim - 1](shape=values.shape[1:], dtype=str(values.dtype))
    features = Features({"image": kind, "caption": Value("string"), "key": Value("string")})
    splits = {}
    for split in ("train", "held_out"):
        chosen = [number for number, key in enumerate(keys) if (key in held_out) == (split == "held_out")]
        columns = {
            "image": values[chosen],
            "caption": [captions[number] for number in chosen],
            "key": [keys[number] for number in chosen],
        }
        splits[split] = Dataset.from_dict(columns, features=features)
    return DatasetDict(splits)


def _check(path: Path, values: np.ndarray, captions: list[str]) -> None:
    if values.ndim - 1 not in ARRAY or 0 in values.shape[1:]:
        raise UserError(f"{path}: values must be (N, C, *shape) of 1 to 3 dimensions, found shape {values.shape}.")
    if len(values) != len(captions) or len(values) < 2:
        raise UserError(f"{path}: {len(values)} values and {len(captions)} captions; at least 2 of each are needed.")
    if empty := [number for number, caption in enumerate(captions) if not caption]:
        raise UserError(f"{path}: caption {empty[0]} is empty; write one or leave the row out.")
    if values.dtype == np.uint8:
        return
    if not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"{path}: values must be uint8 or floating point in [-1, 1], found {values.dtype}.")
    finite = np.isfinite(values).reshape(len(values), -1).all(1)
    if not finite.all():
        raise UserError(
            f"{path}: row {int(np.argmin(finite))} of values holds NaN or infinity; repair or leave it out."
        )
    if np.abs(values).max() > 1:
        raise UserError(
            f"{path}: values must lie in [-1, 1], found {values.min():.3g} to {values.max():.3g}; scale them."
        )
