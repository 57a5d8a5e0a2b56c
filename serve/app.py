"""The HTTP API: OpenAI's endpoints for pictures over `Engine`. docs/serve.md describes it for clients."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from vqlm.serve.errors import ApiError
from vqlm.serve.fields import schema_of
from vqlm.serve.jobs import ServedModel
from vqlm.serve.middleware import PICTURE_PATH, Counted, Guard
from vqlm.serve.page import add_page
from vqlm.serve.requests import read_form, read_json_body
from vqlm.serve.service import Service
from vqlm.serve.settings import ServeConfig

FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def create_app(models: Sequence[ServedModel], config: ServeConfig | None = None) -> FastAPI:
    """The application that serves `models`, the first of them where a request names none.

    Args:
        models: at least one; their pipelines must not be used elsewhere meanwhile.
        config: keys, limits and names.

    Returns:
        The ASGI application. Its engine's thread begins and ends with its lifespan.

    Raises:
        UserError: for names that are taken twice, an alias of no model, a model that cannot be served.
    """
    service = Service(models, config or ServeConfig())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.engine.stop)

    # FastAPI's own pages about the API fetch scripts from elsewhere; the description itself is at /openapi.json.
    app = FastAPI(
        title="vqlm", description="Pictures from prompts, by OpenAI's image API.", lifespan=lifespan, docs_url=None,
        redoc_url=None,
    )  # fmt: skip
    app.state.service = service
    app.add_middleware(Guard, api_key=service.config.api_key, max_body=service.config.max_body)
    if service.config.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=service.config.cors_origins, allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["X-Seed", "X-Size-Revised", "Retry-After"],
        )  # fmt: skip
    app.add_middleware(Counted, requests=service.metrics.requests)
    _add_error_handlers(app)
    _add_routes(app, service)
    if service.config.page:
        add_page(app, service)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/images/generations", openapi_extra=_body("generations", "application/json"), responses=ERRORS)
    async def generate(request: Request) -> Response:
        """Draw a prompt."""
        return await service.draw(request, "generations", await read_json_body(request, "generations"))

    @app.post("/v1/images/edits", openapi_extra=_body("edits", "multipart/form-data"), responses=ERRORS)
    async def edit(request: Request) -> Response:
        """Draw a part of a picture again."""
        values, image, mask = await read_form(request, "edits")
        return await service.draw(request, "edits", values, image, mask)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models and their aliases."""
        return {"object": "list", "data": [_model_entry(name, model) for name, model in service.names.items()]}

    @app.get("/v1/models/{name}", responses=ERRORS)
    async def one_model(name: str) -> dict[str, Any]:
        """One model."""
        return _model_entry(name, service.model(name))

    @app.get("/health", responses={503: {"description": "drawing has stopped"}})
    async def health() -> Response:
        """Whether pictures can be drawn."""
        is_alive = service.engine.is_alive
        return JSONResponse({"status": "ok" if is_alive else "stopped"}, 200 if is_alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get(PICTURE_PATH + "{name}", responses=ERRORS)
    async def picture(name: str) -> Response:
        """A picture that was asked for by URL."""
        file = service.store.find(name)
        return Response(file, media_type=FORMATS[name.rpartition(".")[2]])


def _model_entry(name: str, model: ServedModel) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": model.created, "owned_by": "vqlm"}


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": "OpenAI's error body"} for status in (400, 401, 404, 413, 415, 429, 500, 503, 504)
}


def _body(endpoint: str, media_type: str) -> dict[str, Any]:
    schema = schema_of(endpoint)
    if endpoint == "edits":
        file = {"type": "string", "format": "binary"}
        schema["properties"] |= {"image": file, "mask": {**file, "description": "transparent where to draw"}}
        schema["required"] = [*schema["required"], "image"]
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def of_ours(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def of_starlette(_: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed"}
        api = ApiError(error.status_code, codes.get(error.status_code, "bad_request"), f"{error.detail}.")
        return JSONResponse(api.body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def of_anything(_: Request, error: Exception) -> Response:
        return JSONResponse(ApiError(500, "internal_error", "The server failed; its log says why.").body, 500)
