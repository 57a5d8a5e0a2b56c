"""HTTP requests -> the values of their fields and their uploads. Says what is wrong in OpenAI's error format."""

import json
from typing import Any, NoReturn

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from vqlm.serve.errors import ApiError, wrong
from vqlm.serve.fields import FILES, read_fields

IMAGES = ("image", "image[]")


async def read_json_body(request: Request, endpoint: str) -> dict[str, Any]:
    """The fields of a JSON body."""
    return read_fields(await read_json_object(request), endpoint)


async def read_json_object(request: Request) -> dict[str, Any]:
    """A JSON body as it was sent."""
    _require_type(request, "application/json")
    try:
        body = json.loads(await request.body(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise wrong(None, "The body is not JSON.", "invalid_json") from None
    if not isinstance(body, dict):
        raise wrong(None, "The body must be a JSON object of parameters.", "invalid_json")
    return body


async def read_form(request: Request, endpoint: str) -> tuple[dict[str, Any], bytes, bytes | None]:
    """The fields, the picture and the mask of a multipart body."""
    form = await _form(request)
    try:
        images = [part for name in IMAGES for part in form.getlist(name)]
        masks = form.getlist("mask")
        if not images:
            raise ApiError(400, "missing_required_parameter", "`image` is missing; send the picture to edit.", "image")
        if len(images) > 1:
            raise wrong("image", f"One picture is edited at a time, found {len(images)}.", "too_many_images")
        if len(masks) > 1:
            raise wrong("mask", f"There can be one mask, found {len(masks)}.")
        sent = [name for name in form if name not in (*FILES, *IMAGES)]
        if twice := [name for name in sent if len(form.getlist(name)) > 1]:
            raise wrong(twice[0], f"`{twice[0][:80]}` is sent more than once.")
        values = read_fields({name: form[name] for name in sent}, endpoint, is_form=True)
        image = await _file(images[0], "image")
        return values, image, await _file(masks[0], "mask") if masks else None
    finally:
        await form.close()


async def read_upload(request: Request) -> tuple[str | None, bytes]:
    """The name of the model and the picture of a multipart body with these two."""
    form = await _form(request)
    try:
        images, names = form.getlist("image"), form.getlist("model")
        if len(images) != 1 or len(names) > 1:
            raise wrong("image", "The form must have one `image` and at most one `model`.", "invalid_form")
        name = names[0] if names else None
        if isinstance(name, UploadFile):
            raise wrong("model", "`model` must be a name.", "invalid_type")
        return name, await _file(images[0], "image")
    finally:
        await form.close()


async def _form(request: Request) -> FormData:
    _require_type(request, "multipart/form-data")
    try:
        return await request.form(max_files=32, max_fields=64)
    except HTTPException as error:
        raise wrong(None, f"The body is not a multipart form: {error.detail}", "invalid_form") from None
    except (ValueError, KeyError, AssertionError):
        raise wrong(None, "The body is not a multipart form.", "invalid_form") from None


async def _file(part: Any, name: str) -> bytes:
    if not isinstance(part, UploadFile):
        raise wrong(name, f"`{name}` must be a file.", "invalid_type")
    return await part.read()


def _require_type(request: Request, expected: str) -> None:
    sent = request.headers.get("content-type", "")
    if sent.partition(";")[0].strip().lower() != expected:
        raise ApiError(
            415,
            "unsupported_media_type",
            f"The body must be {expected}, found {ascii(sent[:80]) or 'no content type'}.",
        )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
