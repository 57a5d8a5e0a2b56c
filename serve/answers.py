"""Answers in the shapes that the types of the `openai` client require."""

import base64
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vqlm.serve.errors import ApiError
from vqlm.serve.pictures import Size, encode_picture

QUALITY, BACKGROUND = "high", "opaque"  # whatever is asked for
KEPT_SECONDS, MOST_KEPT = 600, 256


@dataclass
class Answer:
    """What the answers to one request have in common."""

    values: Mapping[str, Any]
    size: Size
    text_tokens: int
    image_tokens: int
    endpoint: str
    created: int

    def encode(self, picture: Image.Image, text: str | None = None) -> bytes:
        """The file of a picture as the request wants it. A PNG holds `text`."""
        file_format, compression = self.values["output_format"], self.values["output_compression"]
        return encode_picture(picture, self.size, file_format, compression, text)

    def whole(self, data: list[dict[str, str]]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        return {"created": self.created, "data": data, "usage": self.usage(len(data)), **self._common()}

    def partial(self, index: int, number: int, file: bytes) -> str:
        """The event of an unfinished picture: of `index` among the n, after `number` others of it."""
        return self._event("partial_image", index, file, {"partial_image_index": number})

    def completed(self, index: int, file: bytes) -> str:
        """The event of a finished picture, with its own tokens."""
        return self._event("completed", index, file, {"usage": self.usage(1)})

    def usage(self, pictures: int) -> dict[str, Any]:
        """Tokens that were read and drawn. An edited picture counts as read."""
        read = self.image_tokens if self.endpoint == "edits" else 0
        drawn = pictures * self.image_tokens
        return {
            "input_tokens": self.text_tokens + read,
            "input_tokens_details": {"text_tokens": self.text_tokens, "image_tokens": read},
            "output_tokens": drawn,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": drawn},
            "total_tokens": self.text_tokens + read + drawn,
        }

    def _common(self) -> dict[str, Any]:
        common = {
            "background": BACKGROUND,
            "output_format": self.values["output_format"],
            "quality": QUALITY,
            "size": f"{self.size[0]}x{self.size[1]}",
        }
        identifier = self.values["safety_identifier"] or self.values["user"]
        return common if not identifier else {**common, "safety_identifier": identifier}

    def _event(self, kind: str, index: int, file: bytes, more: Mapping[str, Any]) -> str:
        name = f"{'image_edit' if self.endpoint == 'edits' else 'image_generation'}.{kind}"
        data = {"type": name, "b64_json": base64_of(file), "created_at": self.created, **self._common(), **more}
        if self.values["n"] > 1:  # OpenAI's events do not tell the pictures of a request apart
            data["index"] = index
        return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def error_event(error: ApiError) -> str:
    """The event of an error after the answer has begun."""
    return f"event: error\ndata: {json.dumps(error.body)}\n\n"


def base64_of(file: bytes) -> str:
    """As `b64_json` has it."""
    return base64.b64encode(file).decode()


class PictureStore:
    """Pictures that were asked for by URL, for ten minutes, the newest 256. A name cannot be guessed."""

    def __init__(self):
        self._files: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, file: bytes, file_format: str) -> str:
        """The name under which the file is kept."""
        name = f"{secrets.token_urlsafe(24)}.{file_format}"
        with self._lock:
            self._files[name] = (time.monotonic(), file)
            while len(self._files) > MOST_KEPT:
                self._files.popitem(last=False)
        return name

    def find(self, name: str) -> bytes:
        """The file. Raises ApiError if it is not kept (any more)."""
        with self._lock:
            kept, file = self._files.get(name, (0.0, b""))
        if not file or time.monotonic() - kept > KEPT_SECONDS:
            raise ApiError(404, "not_found", "This picture is not kept any more; draw it again with its seed.")
        return file
