"""What is to be drawn, as options, a line of a file of prompts, or the text in a PNG say it. Needs no torch.

A picture that `vqlm generate` wrote holds its request as JSON in a tEXt chunk named "vqlm", and can be drawn again.
"""

import difflib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from vqlm.lm.settings import SamplingConfig, require_count
from vqlm.training.errors import UserError

TEXT_KEY = "vqlm"  # of the chunk
MOST_SEED = 2**63 - 1
SAMPLING = tuple(field.name for field in fields(SamplingConfig))
JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class PictureRequest:
    """Pictures of one prompt. Settings that are None are the model's defaults.

    The seed of a picture is `seed` and `rerank` for each picture before it, so that each can be drawn again alone.

    Raises UserError for a value of a wrong type or out of range.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    num_images: int = 1
    seed: int | None = None
    rerank: int = 1
    guidance_scale: float | None = None
    guidance_schedule: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    image: str | None = None
    keep_rows: int | None = None
    mask: str | None = None

    def __post_init__(self):
        for name in ("prompt", "negative_prompt", "image", "mask"):
            if not isinstance(value := getattr(self, name), str | None):
                raise UserError(f"`{name}` must be text, found {value!r:.40} of type {type(value).__name__}.")
        for name in ("num_images", "rerank"):
            require_count(name, getattr(self, name))
        if self.prompt is not None and not self.prompt.strip():
            raise UserError("`prompt` is empty; write what to draw, or leave it out to draw without a prompt.")
        if isinstance(self.keep_rows, bool) or not isinstance(self.keep_rows, int | None):
            raise UserError(f"`keep_rows` must be a whole number, found {self.keep_rows!r:.40}.")
        if self.seed is not None:
            require_seed(self.seed, self.num_images * self.rerank)
        SamplingConfig().override(**self.sampling)
        self._refuse_what_has_no_effect()

    def _refuse_what_has_no_effect(self) -> None:
        for name in ("mask", "keep_rows"):
            if getattr(self, name) is not None and self.image is None:
                raise UserError(f"`{name}` needs `image`.")
        if self.keep_rows is not None and self.mask is not None:
            raise UserError("`keep_rows` continues a picture and `mask` repaints a part of it; give one of the two.")
        if self.image is not None and self.rerank > 1:
            raise UserError("`rerank` has no effect with `image`; leave it out.")

    @property
    def sampling(self) -> dict[str, Any]:
        """Settings of `SamplingConfig` by name."""
        return {name: getattr(self, name) for name in SAMPLING}

    def changed(self, given: Mapping[str, Any]) -> "PictureRequest":
        """This request with those of `given` that are not None. Raises UserError for a name that it does not have."""
        if unknown := [name for name in given if name not in self.__dataclass_fields__]:
            near = difflib.get_close_matches(unknown[0], self.__dataclass_fields__, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it knows {', '.join(self.__dataclass_fields__)}."
            raise UserError(f"A picture has no setting {unknown[0]!r}; {hint}")
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def one_by_one(self) -> list["PictureRequest"]:
        """A request for each picture, with its own seed, which draws it alone."""
        assert self.seed is not None
        return [replace(self, num_images=1, seed=self.seed + n * self.rerank) for n in range(self.num_images)]

    @property
    def seeds(self) -> list[int]:
        """Of all pictures that are drawn, those that `rerank` leaves out among them."""
        assert self.seed is not None
        return list(range(self.seed, self.seed + self.num_images * self.rerank))


def require_seed(seed: Any, count: int = 1) -> None:
    """Raises UserError if `seed` and `count` - 1 whole numbers after it are no seeds."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MOST_SEED - (count - 1):
        raise UserError(f"`seed` must be a whole number from 0 to {MOST_SEED - (count - 1)}, found {seed!r:.40}.")


def with_seeds(requests: Sequence[PictureRequest], seed: int) -> list[PictureRequest]:
    """The requests, those without a seed with seeds from `seed` on, one after another."""
    seeded = []
    for request in requests:
        count = request.num_images * request.rerank
        if request.seed is None:
            require_seed(seed, count)
            request = replace(request, seed=seed)
        seeded.append(request)
        seed += count
    return seeded


def read_prompts(path: Path, common: PictureRequest) -> list[PictureRequest]:
    """The requests in a file: a prompt per line, or, of .jsonl, an object with `prompt` and settings per line.

    Empty lines are left out. What a line does not say is as in `common`. Raises UserError that names the line.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:  # which ends lines at \\n and \\r only
            lines = [(number, line.strip()) for number, line in enumerate(file, 1) if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file of prompts.") from None
    requests = []
    for number, line in lines:
        try:
            given = _object_in(line) if path.suffix.lower() in JSON_LINES else {"prompt": line}
            requests.append(common.changed(given))
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    if not requests:
        raise UserError(f"{path} holds no prompts; write one per line.")
    return requests


def _object_in(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or "prompt" not in value:
        raise UserError(f'a line must be a JSON object such as {{"prompt": "red heart", "seed": 3}}, found {line:.60}')
    return value


def file_names(requests: Sequence[PictureRequest]) -> list[str]:
    """The name of each picture's file in a folder: its number and its prompt, such as 003-red-heart.png."""
    prompts = [request.prompt for request in requests for _ in range(request.num_images)]
    digits = max(3, len(str(len(prompts))))
    return [f"{number:0{digits}}-{_in_a_name(prompt)}.png" for number, prompt in enumerate(prompts, 1)]


def _in_a_name(prompt: str | None) -> str:
    words = "" if prompt is None else re.sub(r"[^\w]+", "-", prompt.lower()[:40]).strip("-")
    return words.encode(errors="ignore").decode() or "no-prompt"


# The text in a PNG


def text_of(requests: Sequence[PictureRequest], drawn_with: Mapping[str, Any]) -> str:
    """What a picture of these requests says of itself: JSON. drawn_with: `model`, `dtype`."""
    listed = [{name: value for name, value in asdict(request).items() if value is not None} for request in requests]
    return json.dumps(dict(drawn_with) | (listed[0] if len(listed) == 1 else {"requests": listed}))


def read_like(path: Path) -> tuple[dict[str, Any], list[PictureRequest]]:
    """What a picture of `vqlm generate` was drawn with, and its requests. Raises UserError for another picture."""
    from PIL import Image  # its import would double the time of --help

    try:
        with warnings.catch_warnings(), Image.open(path, formats=["PNG"]) as picture:
            warnings.simplefilter("ignore")
            picture.load()  # the text may come after the pixels
            text = getattr(picture, "text", {}).get(TEXT_KEY)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; name a PNG that `vqlm generate` wrote.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a PNG ({' '.join(str(error).split())[:80]}).") from None
    if text is None:
        raise UserError(f"{path} does not say how it was drawn; name a PNG that `vqlm generate` wrote, unchanged.")
    try:
        content = json.loads(text)
        drawn_with = {name: content.pop(name) for name in ("model", "dtype") if name in content}
        if not all(isinstance(value, str) for value in drawn_with.values()):
            raise UserError("`model` and `dtype` must be text.")
        requests = [PictureRequest().changed(request) for request in content.get("requests") or [content]]
        if any(request.seed is None for request in requests):
            raise UserError("`seed` is missing.")
    except (UserError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: the text {TEXT_KEY!r} in it cannot be used ({error!s:.160}).") from None
    return drawn_with, requests
