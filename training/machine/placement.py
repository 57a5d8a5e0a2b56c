"""Where a model is loaded to and in which precision, from the arguments that transformers and diffusers have for it."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from vqlm.training.errors import UserError
from vqlm.training.machine.device import best_device, usable_device

# Of `huggingface_hub.snapshot_download`, and of `from_pretrained` in transformers.
HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision", "proxies", "endpoint", "etag_timeout")
PRECISIONS = {
    "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
}  # fmt: skip
WHOLE = ("auto", "balanced", "balanced_low_0", "sequential")  # device maps that let the machine choose


def require_known(given: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError for a keyword of `from_pretrained` that is not `known`; it names the nearest."""
    known = sorted(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"it knows {', '.join(known)}."
            raise UserError(f"`from_pretrained` has no argument {name!r}; {hint}")


def precision_of(dtype: Any = None, torch_dtype: Any = None) -> torch.dtype | str | None:
    """The precision of `dtype`, or of `torch_dtype`, which is its earlier name: "auto" as it was saved, None if neither
    is given. Raises UserError for both, or for what is no precision of a model."""
    if dtype is not None and torch_dtype is not None:
        raise UserError("`torch_dtype` is the earlier name of `dtype`; give one of the two.")
    given = torch_dtype if dtype is None else dtype
    if given is None or given == "auto":
        return given
    found = PRECISIONS.get(given.removeprefix("torch.")) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        raise UserError(f"`dtype` must be float32, bfloat16 or float16, found {given!r:.40}.")
    return found


def device_of(device: Any = None, device_map: Any = None) -> torch.device | None:
    """The one device of `device`, or of `device_map`; "auto" is the best of this machine, None if neither is given.

    Raises UserError for both, for a device that this machine lacks, or a map that splits the model.
    """
    if device is not None and device_map is not None:
        raise UserError("`device` and `device_map` both say where the model goes; give one of the two.")
    if isinstance(device_map, Mapping):
        places = set(device_map.values())
        if len(places) != 1:
            raise UserError(f"`device_map` must name one device, since a model is not split; found {device_map!r:.80}.")
        device_map = places.pop()
    place = device_map if device is None else device
    if place is None:
        return None
    return best_device() if isinstance(place, str) and place in WHOLE else usable_device(place)
