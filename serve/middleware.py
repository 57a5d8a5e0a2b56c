"""What every request passes before it is read: the counter, the key, the limit of its size."""

import hmac

from prometheus_client import Counter
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqlm.serve.errors import ApiError

OPEN_PATHS = ("/health",)
PICTURE_PATH = "/v1/images/files/"  # whose names cannot be guessed


class Guard:
    """Refuses requests without the key and bodies that are too large, the latter before they are in memory."""

    def __init__(self, app: ASGIApp, api_key: str | None, max_body: int):
        self.app, self.key, self.max_body = app, None if api_key is None else api_key.encode(), max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        error = self._refusal(scope, headers)
        if error is not None:
            await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_body:
                raise self._too_large()
            return message

        await self.app(scope, counted, send)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> ApiError | None:
        path = scope["path"]
        if self.key is not None and path not in OPEN_PATHS and not path.startswith(PICTURE_PATH):
            scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(sent.strip(), self.key):
                return ApiError(
                    401, "invalid_api_key", "The API key is missing or wrong; send `Authorization: Bearer KEY`.",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and (len(length) > 18 or int(length) > self.max_body):
            return self._too_large()
        return None

    def _too_large(self) -> ApiError:
        return ApiError(
            413, "body_too_large", f"The body has more than {self.max_body:,} bytes; send smaller pictures."
        )


class Counted:
    """Counts answers by endpoint and status."""

    def __init__(self, app: ASGIApp, requests: Counter):
        self.app, self.requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")
                self.requests.labels(path, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)
