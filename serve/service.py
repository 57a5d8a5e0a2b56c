"""What the endpoints share: the models by name, and one request from its fields to its answer."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from vqlm.serve.answers import Answer, PictureStore, base64_of, error_event
from vqlm.serve.engine import Engine
from vqlm.serve.errors import ApiError
from vqlm.serve.jobs import Event, Job, Partial, ServedModel, make_pictures
from vqlm.serve.middleware import PICTURE_PATH
from vqlm.serve.pictures import prepare_edit, read_picture, size_of
from vqlm.serve.prometheus import Metrics
from vqlm.serve.settings import ServeConfig
from vqlm.serve.threads import in_passing_thread
from vqlm.training.errors import UserError

GONE = 499  # nobody reads it; the log and the metrics show it


class Service:
    """Models by name, the engine, the metrics, the pictures that are kept for their URL."""

    def __init__(self, models: Sequence[ServedModel], config: ServeConfig):
        self.config, self.models = config, {model.name: model for model in models}
        if len(self.models) < len(models):
            raise UserError("Two models have the same name; give each one with `served_model_name`.")
        for model in models:
            if model.pipeline.image_tokenizer.config.network.spatial_dims != 2:
                raise UserError(f"{model.name} draws no pictures but series or volumes, which have no API here.")
        self.default, self.names = models[0], dict(self.models)
        for alias in config.aliases:
            name, _, target = alias.partition("=")
            if target not in self.models or name in self.names:
                raise UserError(f"alias {alias!r} needs a new name and a model of {', '.join(self.models)}.")
            self.names[name] = self.models[target]
        self.engine = Engine(models, config.max_slots, config.max_queue)
        self.metrics, self.store = Metrics(lambda: self.engine.load), PictureStore()

    def model(self, name: str | None) -> ServedModel:
        """The model of a name or alias. Raises ApiError for another."""
        if name is None:
            return self.default
        if name not in self.names:
            known = ", ".join(self.names)
            raise ApiError(404, "model_not_found", f"There is no model {ascii(name[:80])}; there are {known}.", "model")
        return self.names[name]

    async def draw(
        self, request: Request, endpoint: str, values: dict[str, Any], image: bytes | None = None,
        mask: bytes | None = None,
    ) -> Response:  # fmt: skip
        """Answer a request whose fields are read."""
        began, model = time.monotonic(), self.model(values["model"])
        size = size_of(values["size"], model.size, self.config.strict_sizes, self.config.max_pixels)
        seed = secrets.randbelow(2**32) if values["seed"] is None else values["seed"]
        events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def on_event(number: int, event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, (number, event))

        def prepare() -> Job:
            pictures, caption = make_pictures(model, values, seed, *self._edited(model, image, mask))
            deadline = began + self.config.timeout
            return Job(model, pictures, on_event, deadline, endpoint == "edits", caption)

        job = await asyncio.to_thread(in_passing_thread, prepare)
        self.engine.submit(job)
        answer = Answer(values, size, len(job.captions), model.num_codes, endpoint, int(time.time()))
        headers = {"X-Seed": str(seed)}
        if size != model.size:
            headers["X-Size-Revised"] = f"{model.size[0]}x{model.size[1]} scaled to {size[0]}x{size[1]}"
        drawing = Drawing(self, request, job, events, began)
        if values["stream"]:
            content = drawing.stream(answer)
            return StreamingResponse(content, media_type="text/event-stream", headers={**headers, **NOT_BUFFERED})
        return await drawing.whole(answer, headers)

    def _edited(self, model: ServedModel, image: bytes | None, mask: bytes | None) -> tuple[Any, Any]:
        if image is None:
            return None, None
        picture = read_picture(image, "image", self.config.max_pixels)
        masked = None if mask is None else read_picture(mask, "mask", self.config.max_pixels)
        config = model.pipeline.image_tokenizer.config
        return prepare_edit(picture, masked, model.size, config.background, config.fit)


NOT_BUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the latter for nginx


class Drawing:
    """One submitted job and the client that waits for it. A client that leaves frees its rows."""

    def __init__(
        self, service: Service, request: Request, job: Job, events: asyncio.Queue[tuple[int, Event]], began: float
    ):
        self.service, self.request, self.job, self.events, self.began = service, request, job, events, began
        self.endpoint = request.url.path

    async def whole(self, answer: Answer, headers: dict[str, str]) -> Response:
        """One answer with all pictures."""
        files: dict[int, bytes] = {}
        async with aclosing(self._events()) as events:
            async for number, event in events:
                if isinstance(event, ApiError):
                    raise event
                files[number] = await asyncio.to_thread(answer.encode, event.picture, event.text)
        if len(files) < len(self.job.pictures):
            return Response(status_code=GONE)
        data = [self._datum(answer, files[number]) for number in range(len(files))]
        return JSONResponse(answer.whole(data), headers=headers)

    async def stream(self, answer: Answer) -> AsyncIterator[str]:
        """Server-sent events, each picture as soon as it is there."""
        async with aclosing(self._events()) as events:
            async for index, event in events:
                if isinstance(event, ApiError):
                    yield error_event(event)
                    return
                file = await asyncio.to_thread(answer.encode, event.picture, event.text)
                if isinstance(event, Partial):
                    yield answer.partial(index, event.number, file)
                else:
                    yield answer.completed(index, file)

    def _datum(self, answer: Answer, file: bytes) -> dict[str, str]:
        if answer.values["response_format"] == "b64_json":
            return {"b64_json": base64_of(file)}
        name = self.service.store.keep(file, answer.values["output_format"])
        return {"url": f"{str(self.request.base_url).rstrip('/')}{PICTURE_PATH}{name}"}

    async def _events(self) -> AsyncGenerator[tuple[int, Event], None]:
        """Until all pictures are finished, an error, or the client has left."""
        missing, leaves = len(self.job.pictures), asyncio.create_task(self._left())
        is_answered = False
        try:
            while missing:
                get = asyncio.create_task(self.events.get())
                await asyncio.wait((get, leaves), return_when=asyncio.FIRST_COMPLETED)
                if not get.done():
                    get.cancel()
                    return
                number, event = get.result()
                missing -= not isinstance(event, Partial)
                is_answered = not missing or isinstance(event, ApiError)
                yield number, event
                if isinstance(event, ApiError):
                    return
            seconds = time.monotonic() - self.began
            self.service.engine.took(seconds)
            self.service.metrics.seconds.labels(self.endpoint).observe(seconds)
            self.service.metrics.pictures.labels(self.job.model.name).inc(len(self.job.pictures))
        finally:
            leaves.cancel()
            self.job.cancel()  # has no effect on one that is finished
            if not is_answered:
                self.service.metrics.disconnects.inc()

    async def _left(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
