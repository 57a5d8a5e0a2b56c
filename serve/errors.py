"""Errors as OpenAI's API words them: a status, and a body with message, type, parameter and a stable code."""

from typing import Any


class ApiError(Exception):
    """What a client did wrong, or the server cannot do.

    Args:
        status: HTTP status.
        code: a name that clients can compare, which stays the same between versions.
        message: what was expected, what was found, what to do.
        param: the field that it is about.
        headers: further headers of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, headers: dict[str, str] | None = None
    ):
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.headers = status, code, message, param, headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def type(self) -> str:
        """OpenAI's class of the error."""
        if self.status >= 500:
            return "server_error"
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "invalid_request_error")


def wrong(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """Status 400."""
    return ApiError(400, code, message, param)
