"""The outermost layer: who may call, request ids, the log and the counters. Texts and keys are never logged."""

import logging
import re
import time
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen3_rag.server.failures import RequestError
from qwen3_rag.server.replies import error_response
from qwen3_rag.server.service import Service

__all__ = ["Guard", "route_of"]

OPEN = "/health"  # needs no key
ONCE = (b"host", b"origin", b"authorization", b"content-type", b"content-encoding", b"content-length")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
WITH_BODY = ("POST", "PUT", "PATCH")
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
IDS = ("/documents/", "/v1/models/")  # paths that end with a name
# Pages elsewhere cannot use responses as scripts or pictures.
ISOLATING = ((b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin"))
TEI_PATHS = ("/", "/embed")
logger = logging.getLogger("qwen3_rag.server")


class Guard:
    """Lets through the requests that may pass.

    Args:
        app: What answers them.
        service: Settings and counters.
        paths: The routes' paths, for the counters.
    """

    def __init__(self, app: ASGIApp, service: Service, paths: Collection[str]) -> None:
        self.app, self.service, self.paths = app, service, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 499
        headers: dict[bytes, bytes] = dict(scope["headers"])
        repeated = {name for name in ONCE if sum(name == each for each, _ in scope["headers"]) > 1}
        given = headers.get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id), *ISOLATING]
            await send(message)

        if len(path := scope["path"]) > 1 and (scope["method"] == "POST" or path in IDS or not path.startswith(IDS)):
            scope["path"] = path.removesuffix("/")
        try:
            if refusal := _repetition(repeated) or self._refusal(scope, headers):
                await error_response(refusal, scope["path"] in TEI_PATHS)(scope, receive, numbered)
            else:
                await self.app(scope, receive, numbered)
        finally:
            self._account(scope, request_id.decode(), status, time.monotonic() - began)

    def _refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> RequestError | None:
        settings = self.service.settings
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = re.sub(r":\d*$", "", host)
        if settings.host_names and name not in settings.host_names and scope["path"] != OPEN:
            return RequestError(421, f"the host {name!r} is none of this server's names: --allow-host adds one")
        if not self._origin_passes(headers, host):
            return RequestError(403, "pages of this origin may not call this server: --allow-origin lets one")
        if settings.keys and scope["path"] != OPEN and not settings.keys.accept(headers.get(b"authorization", b"")):
            return RequestError(401, "a key is needed: Authorization: Bearer KEY, with one of this server's keys")
        if scope["method"] in WITH_BODY:
            return _wrong_kind(headers)
        return None

    def _origin_passes(self, headers: Mapping[bytes, bytes], host: str) -> bool:
        """Whether a web page may call: one of this server's own, or of an origin that was allowed."""
        origin = headers.get(b"origin")
        allowed = [each.lower() for each in self.service.settings.allow_origins]
        if origin is None:  # no page, or one that loads this as a script or a picture
            opened = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
            return "*" in allowed or opened or headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin")
        text = origin.decode("latin-1").lower()
        return "*" in allowed or text in allowed or text in (f"http://{host}", f"https://{host}")

    def _account(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        metrics, route = self.service.metrics, route_of(scope, self.paths)
        metrics.requests.labels(route, str(status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        fields: dict[str, Any] = {
            "request_id": request_id,
            "route": route,
            "status": status,
            "seconds": round(seconds, 4),
            "texts": scope.get("texts", 0),
            "bytes": scope.get("bytes", 0),
        }
        logger.info(
            "%s %d in %.0f ms, %d texts, %d bytes, id %s",
            route, status, seconds * 1000, fields["texts"], fields["bytes"], request_id, extra={"fields": fields},
        )  # fmt: skip


def _repetition(names: set[bytes]) -> RequestError | None:
    """The refusal of headers that occur twice: another program might go by the other one."""
    if not names:
        return None
    return RequestError(400, f"the header {min(names).decode()!r} occurs more than once; expected one")


def route_of(scope: Scope, paths: Collection[str]) -> str:
    """Method and route of a request, such as "GET /documents/{id}": a path itself may contain a document's id."""
    path = scope["path"]
    for start in IDS:
        path = start + "{id}" if path.startswith(start) and path not in paths else path
    if path not in paths:
        return "unknown"
    return f"{scope['method'] if scope['method'] in METHODS else 'other'} {path}"


def _wrong_kind(headers: Mapping[bytes, bytes]) -> RequestError | None:
    kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A foreign page can send other kinds to this machine without asking.
        return RequestError(415, f"the content type is {kind[:60]!r}; expected 'application/json'")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        return RequestError(415, "the body is compressed; expected plain JSON")
    return None
