"""Responses as JSON."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from qwen3_rag.server.failures import RequestError, error_body

__all__ = ["error_response", "json_response"]


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response of JSON; arrays of numpy are written as lists."""
    try:
        body = orjson.dumps(value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # whole numbers of more than 64 bits, in documents that go back as they came
        try:
            body = json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False).encode()
        except ValueError:
            raise RequestError(422, "a document that is to come back has a number that JSON cannot express") from None
    return Response(body, status, headers, media_type="application/json")


def error_response(error: RequestError, tei: bool = False) -> Response:
    """A response that says what went wrong."""
    return json_response(error_body(error, tei), error.status, error.headers)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")
