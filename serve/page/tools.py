"""What the page asks beyond OpenAI's API: what a model can do, descriptions, and the codes of a picture."""

import asyncio
import io
from typing import Any

import torch
from fastapi import FastAPI, Request
from PIL import Image
from torch import Tensor

from vqlm.serve.answers import base64_of
from vqlm.serve.errors import ApiError, wrong
from vqlm.serve.jobs import ServedModel
from vqlm.serve.pictures import read_picture
from vqlm.serve.requests import read_json_object, read_upload
from vqlm.serve.service import Service
from vqlm.serve.threads import in_passing_thread
from vqlm.training.errors import UserError
from vqlm.vq import to_pil
from vqlm.vq.metrics import psnr

NEIGHBORS = 8


def add_tools(app: FastAPI, service: Service) -> None:
    """Add the endpoints below /page/."""

    @app.get("/page/models/{name}", include_in_schema=False)
    async def about(name: str) -> dict[str, Any]:
        return describe_model(service.model(name))

    @app.post("/page/describe", include_in_schema=False)
    async def describe(request: Request) -> dict[str, Any]:
        model, picture = await uploaded(request)
        return await asyncio.to_thread(in_passing_thread, _described, model, picture)

    @app.post("/page/codes", include_in_schema=False)
    async def codes(request: Request) -> dict[str, Any]:
        model, picture = await uploaded(request)
        return await asyncio.to_thread(in_passing_thread, encoded, model, picture)

    @app.post("/page/neighbors", include_in_schema=False)
    async def neighbors(request: Request) -> dict[str, Any]:
        body = await read_json_object(request)
        name = body.get("model")
        if not isinstance(name, str | None):
            raise wrong("model", "`model` must be a name.", "invalid_type")
        model = service.model(name)
        codes, position = _read_codes(model, body)
        return await asyncio.to_thread(in_passing_thread, neighbors_of, model, codes, position)

    async def uploaded(request: Request) -> tuple[ServedModel, Image.Image]:
        name, data = await read_upload(request)
        return service.model(name), await asyncio.to_thread(read_picture, data, "image", service.config.max_pixels)


def describe_model(model: ServedModel) -> dict[str, Any]:
    """What the page has to know of a model."""
    config = model.pipeline.image_tokenizer.config
    sampling = model.pipeline.sampling
    return {
        "size": list(model.size),
        "grid": list(config.code_shape) if _has_plain_grid(model) else None,
        "codebook_size": config.codebook_size,
        "can_caption": model.pipeline.can_caption,
        "sampling": {"guidance_scale": sampling.guidance_scale, "temperature": sampling.temperature},
    }


def _described(model: ServedModel, picture: Image.Image) -> dict[str, Any]:
    try:
        return {"caption": model.pipeline.caption(picture)[0]}
    except UserError as error:
        raise wrong("model", str(error), "unsupported_value") from None


@torch.no_grad()
def encoded(model: ServedModel, picture: Image.Image) -> dict[str, Any]:
    """A picture as the model sees it, its codes and what they give."""
    tokenizer = model.pipeline.image_tokenizer
    pixel_values: Tensor = tokenizer.image_processor(picture, return_tensors="pt")["pixel_values"].to(tokenizer.device)
    codes = tokenizer.encode(pixel_values)
    rebuilt = tokenizer.decode_codes(codes)
    return {
        "picture": _png(to_pil(pixel_values.cpu())[0]),
        "reconstruction": _png(to_pil(rebuilt.cpu())[0]),
        "psnr_db": psnr(rebuilt, pixel_values.float()).item(),
        "codes": codes[0].tolist() if _has_plain_grid(model) else None,
    }


@torch.no_grad()
def neighbors_of(model: ServedModel, codes: Tensor, position: tuple[int, int]) -> dict[str, Any]:
    """The codes whose vectors are nearest to the one at `position`, and the picture with each of them there.

    codes: (h, w). The first neighbor is the code itself. distance: Euclidean. usage: share of all codes that it was in
    the last steps of the training, None for a quantizer that does not count.
    """
    tokenizer = model.pipeline.image_tokenizer
    quantizer = tokenizer.quantizer
    vectors, own = quantizer.code_vectors(), int(codes[position])
    if vectors is None:
        nearest, distances = torch.tensor([own]), [None]
    else:
        from_own = (vectors - vectors[own]).norm(dim=1)
        from_own[own] = -1.0  # first, even if another vector is equal
        found = from_own.topk(min(NEIGHBORS + 1, len(vectors)), largest=False)
        nearest, distances = found.indices.cpu(), found.values.clamp(min=0).tolist()
    counts = getattr(quantizer, "ema_count", None)
    usage = [None] * len(nearest) if counts is None else (counts / counts.sum())[nearest].tolist()
    changed = codes.repeat(len(nearest), 1, 1)
    changed[:, position[0], position[1]] = nearest
    pictures = model.pipeline.decode(changed)
    return {
        "neighbors": [
            {"code": code, "distance": distance, "usage": share, "picture": _png(picture)}  # type: ignore[arg-type]
            for code, distance, share, picture in zip(nearest.tolist(), distances, usage, pictures, strict=True)
        ]
    }


def _has_plain_grid(model: ServedModel) -> bool:
    """Whether a picture has one code per position."""
    return len(model.pipeline.image_tokenizer.config.code_shape) == 2


def _read_codes(model: ServedModel, body: dict[str, Any]) -> tuple[Tensor, tuple[int, int]]:
    config = model.pipeline.image_tokenizer.config
    if not _has_plain_grid(model):
        raise wrong("model", f"{model.name} has several codes per position, which the page does not show.")
    shape = tuple(config.code_shape)
    codes, position = body.get("codes"), body.get("position")
    try:
        tensor = torch.tensor(codes)
        if (
            tensor.shape != shape
            or tensor.dtype != torch.int64
            or not 0 <= tensor.min() <= tensor.max() < (config.codebook_size)
        ):
            raise ValueError("another shape or value")
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise wrong(
            "codes", f"`codes` must be {shape[0]} rows of {shape[1]} whole numbers in [0, {config.codebook_size})."
        ) from None
    if not (
        isinstance(position, list)
        and len(position) == 2
        and all(type(value) is int and 0 <= value < side for value, side in zip(position, shape, strict=True))
    ):
        raise ApiError(400, "invalid_value", f"`position` must be a row and a column of {shape}.", "position")
    return tensor, (position[0], position[1])


def _png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "png")
    return base64_of(file.getvalue())
