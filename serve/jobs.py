"""What a request asks of a model: rows of codes to draw, and how pictures are made of them."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vqlm.data_prep.sequences import prompt_ids
from vqlm.lm import SamplingConfig, TextToImagePipeline
from vqlm.lm.decoding.draw import UNKNOWN
from vqlm.lm.decoding.inpainting import flat_code_mask, likelihood_of_known, random_mask
from vqlm.lm.decoding.sampling import draw_uniform
from vqlm.lm.decoding.stepper import Row
from vqlm.lm.describing import best_of_ids
from vqlm.lm.drawn_files import for_several
from vqlm.lm.picture_requests import PictureRequest, text_of
from vqlm.lm.prompts import tokenize_prompts
from vqlm.serve.errors import ApiError, wrong
from vqlm.serve.fields import SAMPLING
from vqlm.serve.pictures import Size
from vqlm.training.errors import UserError

# Least seconds between two rows that are shown: each delays the drawing by the time of a step or two.
ROW_PAUSE = 0.1


@dataclass
class Partial:
    """An unfinished picture. number: how many came before it."""

    number: int
    picture: Image.Image
    text: None = None


@dataclass
class Done:
    """A finished picture, and what it says of how it was drawn."""

    picture: Image.Image
    text: str


Event = Partial | Done | ApiError


@dataclass
class ServedModel:
    """A pipeline under the name that clients call it."""

    name: str
    pipeline: TextToImagePipeline
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def size(self) -> Size:
        """Width and height of its pictures."""
        height, width = self.pipeline.image_tokenizer.config.network.input_shape
        return width, height

    @property
    def num_codes(self) -> int:
        """Codes of a picture."""
        return self.pipeline.image_tokenizer.config.tokens_per_image


@dataclass(eq=False)
class PictureJob:
    """One picture: the rows that are drawn for it, of which one is kept, the numbers of codes after which an
    unfinished picture is shown, and what the file says of how it was drawn.

    partial_pause: least seconds between two unfinished pictures; those that come sooner are left out.
    """

    rows: list[Row]
    partial_at: list[int]
    text: str
    begun: Tensor | None = None  # (n,) codes of the picture that is edited
    partial_pause: float = 0.0
    waiting: list[Row] = field(init=False)
    shown: int = field(default=0, init=False)
    next_partial: float = field(default=0.0, init=False)  # of time.monotonic

    def __post_init__(self):
        self.waiting = list(self.rows)

    @property
    def is_finished(self) -> bool:
        return all(row.is_finished for row in self.rows)

    @property
    def is_partial_due(self) -> bool:
        is_reached = bool(self.partial_at) and len(self.rows[0].codes) >= self.partial_at[0]
        return is_reached and time.monotonic() >= self.next_partial

    def partial_is_shown(self) -> None:
        """The next unfinished picture is that of later codes."""
        self.shown += 1
        self.next_partial = time.monotonic() + self.partial_pause
        del self.partial_at[0]
        while self.partial_pause and self.partial_at and self.partial_at[0] <= len(self.rows[0].codes):
            del self.partial_at[0]

    def codes_so_far(self, num_codes: int) -> list[int]:
        """All codes of the picture: those drawn, and what stands for the rest."""
        codes = self.rows[0].codes
        rest = [codes[0]] * num_codes if self.begun is None else self.begun.tolist()
        return codes + rest[len(codes) :]


@dataclass(eq=False)
class Job:
    """A request in the engine. `on_event(picture number, event)` is called in the engine's thread."""

    model: ServedModel
    pictures: list[PictureJob]
    on_event: Callable[[int, Event], None]
    deadline: float  # of time.monotonic
    is_edit: bool
    captions: list[int]
    cancelled: threading.Event = field(default_factory=threading.Event, init=False)
    finished: set[int] = field(default_factory=set, init=False)

    def cancel(self) -> None:
        """Nobody waits for the pictures any more: their rows are freed before the next step."""
        self.cancelled.set()


@torch.no_grad()
def make_pictures(
    model: ServedModel, values: Mapping[str, Any], seed: int, image: Image.Image | None = None, mask: Any = None
) -> tuple[list[PictureJob], list[int]]:
    """The pictures of a request and the ids of its prompt. Raises ApiError for values that do not fit the model."""
    pipe, vocabulary, num_codes = model.pipeline, model.pipeline.vocabulary, model.num_codes
    settings = for_several(_sampling(pipe, values), values["n"], values["temperature"])
    caption = _caption(pipe, values["prompt"], "prompt")
    negative = None
    if values["negative_prompt"] is not None:
        if not settings.is_guided:
            raise wrong("negative_prompt", "`negative_prompt` needs a `guidance_scale` other than 1.")
        negative = prompt_ids(vocabulary, [_caption(pipe, values["negative_prompt"], "negative_prompt")])[0]
    if values.get("rerank", 1) > 1 and not pipe.can_caption:
        raise wrong(
            "rerank",
            f"`rerank` needs a model that describes pictures, which {model.name} does not.",
            "unsupported_value",
        )
    prompt = prompt_ids(vocabulary, [caption])[0]
    kept_codes = None if image is None else pipe.encode([image])[0].cpu()
    tries = values["candidates"] if image is not None else values["rerank"]
    partial_at, partial_pause = partial_steps(values["partial_images"], num_codes), 0.0
    if values["partial_rows"]:
        partial_pause = ROW_PAUSE
        row = num_codes // pipe.image_tokenizer.config.code_shape[0]
        partial_at = list(range(row, num_codes, row))
    pictures = []
    for number in range(values["n"]):
        known, generators = None, [torch.Generator().manual_seed(each) for each in seeds_of(values, seed, number)]
        if kept_codes is not None:
            generators = generators[0]  # first for the mask, then for all candidates
            if mask is not None:
                holes = flat_code_mask(mask, pipe.image_tokenizer.config)
            else:
                holes = random_mask(kept_codes[None], values["share"], generators)[0]
            known = torch.where(holes, UNKNOWN, kept_codes)
        uniform = draw_uniform(tries, num_codes, generators, torch.device("cpu"))
        rows = [Row(prompt, settings, numbers, negative, known) for numbers in uniform]
        text = picture_text(model, values, seed, number)
        pictures.append(PictureJob(rows, list(partial_at), text, kept_codes, partial_pause))
    return pictures, caption


def seeds_of(values: Mapping[str, Any], seed: int, number: int) -> list[int]:
    """The seeds of picture `number`: one, or one for each try of `rerank`, as `vqlm generate` numbers them."""
    tries = values.get("rerank", 1)
    return list(range(seed + number * tries, seed + (number + 1) * tries))


def picture_text(model: ServedModel, values: Mapping[str, Any], seed: int, number: int) -> str:
    """What a PNG says of how it was drawn, as `vqlm generate --like` reads it; the name of the model is the served one.

    An edited picture can't be drawn again from this alone, so that its text has no such form.
    """
    settings = for_several(_sampling(model.pipeline, values), values["n"], values["temperature"])
    drawn_with = {"model": model.name, "dtype": str(model.pipeline.model.dtype).removeprefix("torch.")}
    given = {name: values[name] for name in ("prompt", "negative_prompt")} | vars(settings)
    if "rerank" not in values:
        edit = {name: values[name] for name in ("candidates", "share")}
        return json.dumps({"edit": drawn_with | given | edit | {"seed": seed + number}})
    request = PictureRequest(seed=seeds_of(values, seed, number)[0], rerank=values["rerank"], **given)
    return text_of([request], drawn_with)


def partial_steps(count: int, num_codes: int) -> list[int]:
    """After how many codes the unfinished pictures are shown: the first after an eighth, so that it is there soon."""
    return [max(1, round(num_codes * (1 / 8 + number * 7 / 8 / count))) for number in range(count)]


def choose(job: Job, picture: PictureJob) -> list[int]:
    """The codes of the row that is kept: of an edit what fits best to what stays, else the one that `rerank` keeps."""
    if len(picture.rows) == 1:
        return picture.rows[0].codes
    pipe, rows = job.model.pipeline, picture.rows
    codes = torch.tensor([row.codes for row in rows], device=pipe.model.device)
    if not job.is_edit:
        return best_of_ids(pipe, codes[None], [job.captions])[0].flatten().tolist()
    known = torch.tensor(rows[0].known_codes, device=codes.device)
    fits = likelihood_of_known(pipe.model, pipe.vocabulary, [row.prompt for row in rows], codes, known[None])
    return codes[fits.argmax()].tolist()


def _sampling(pipe: TextToImagePipeline, values: Mapping[str, Any]) -> SamplingConfig:
    try:
        return pipe.sampling.override(**{name: values[name] for name in SAMPLING})
    except UserError as error:
        param = next((name for name in SAMPLING if str(error).lstrip("`").startswith(name)), None)
        raise wrong(param, str(error)) from None


def _caption(pipe: TextToImagePipeline, text: str, name: str) -> list[int]:
    if not text.strip():
        raise wrong(name, f"`{name}` is empty; leave it out, or write something.")
    most = pipe.max_caption_tokens
    (ids,) = tokenize_prompts(pipe.vocabulary, [text], most + 1, truncation=True)
    if len(ids or []) > most:
        raise ApiError(
            400, "string_above_max_length", f"`{name}` has more than {most} tokens, the most that this model knows; "
            "shorten it.", name,
        )  # fmt: skip
    return ids or []
