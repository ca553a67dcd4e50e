"""Errors as HTTP responses: a status, and a body that the clients of each dialect can show."""

import logging
import traceback
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException

from qwen3_rag.errors import (
    InvalidArgumentError,
    MissingDependencyError,
    ModelError,
    StoppedError,
    StoreError,
    StoreLockedError,
    StoreMovedError,
    StoreNotFoundError,
    StoreReadOnlyError,
)

__all__ = ["RequestError", "as_request_error", "error_body"]

RETRY_SECONDS = 2
SHOWN = 80  # characters of a wrong value in a message
logger = logging.getLogger("qwen3_rag.server")

# TEI's names of errors, by status.
TEI_TYPES = {
    413: "Validation",
    422: "Validation",
    400: "Validation",
    424: "Backend",
    429: "Overloaded",
    503: "Unhealthy",
}
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    421: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


class RequestError(Exception):
    """A request that is refused or fails.

    Attributes:
        status: HTTP status.
        message: For the caller.
        headers: Headers of the response.
    """

    def __init__(
        self, status: int, message: str, retry_after: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"


def error_body(error: RequestError, tei: bool = False) -> dict[str, Any]:
    """The body of an error: TEI's form, or one that OpenAI's, Cohere's and Jina's clients can all show."""
    if tei:
        return {"error": error.message, "error_type": TEI_TYPES.get(error.status, "Backend")}
    kind = TYPES.get(error.status, "server_error")
    inner = {"message": error.message, "type": kind, "code": error.status, "param": None}
    return {"error": inner, "message": error.message, "detail": error.message}


def as_request_error(error: Exception) -> RequestError:
    """What a caller learns of an error. Unexpected ones are logged without their message, which may contain texts."""
    match error:
        case RequestError():
            return error
        case ValidationError():
            return _wrong_fields(error)
        case HTTPException():
            return RequestError(error.status_code, str(error.detail), headers=error.headers)
        case InvalidArgumentError():
            return RequestError(422, str(error))
        case StoppedError():
            return RequestError(504, str(error))
        case StoreLockedError():
            return RequestError(409, str(error), RETRY_SECONDS)
        case StoreReadOnlyError():
            return RequestError(403, str(error))
        case StoreMovedError() | StoreNotFoundError():
            return RequestError(503, str(error))
        case OSError():
            logger.error("%s: errno %s", type(error).__name__, error.errno)
            return RequestError(503, f"the system is out of something: {error.strerror or type(error).__name__}")
        case StoreError() | ModelError() | MissingDependencyError():
            # Without the message: that of another server may repeat texts.
            logger.error("%s in a request", type(error).__name__)
            return RequestError(500, str(error))
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("unexpected %s in a request; its message is left out, as it may contain texts\n%s", type(error), where)
    return RequestError(500, f"unexpected {type(error).__name__}; the server's log says where")


def _wrong_fields(error: ValidationError) -> RequestError:
    """The first wrong field: where, what it is, and what was expected."""
    first = error.errors(include_url=False)[0]
    # Names of a union's members are no part of the body.
    place = [part for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    shown = repr(first.get("input"))
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
    return RequestError(422, f"{where or 'the body'} is {shown}: {first['msg']}")
