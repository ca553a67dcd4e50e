"""The routes, and one request's steps: read the body, run the endpoint, write the response or the error."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from qwen3_rag.server import embedding, reranking, searching, status
from qwen3_rag.server.bodies import (
    AddBody,
    Body,
    ClassifyBody,
    CohereEmbedBody,
    CohereEmbedV2Body,
    CohereTokenizeBody,
    DeleteBody,
    EmbeddingsBody,
    RerankBody,
    ScoreBody,
    SearchBody,
    TeiEmbedBody,
    TokenizeBody,
    as_json,
    parsed,
)
from qwen3_rag.server.call import Call, ClientGoneError
from qwen3_rag.server.failures import RequestError, as_request_error
from qwen3_rag.server.guard import Guard
from qwen3_rag.server.openapi import described
from qwen3_rag.server.replies import error_response, json_response
from qwen3_rag.server.service import Service

__all__ = ["ENDPOINTS", "Endpoint", "application"]

CLIENT_GONE = 499


@dataclass(frozen=True)
class Endpoint:
    """What answers a route.

    Attributes:
        method: HTTP method.
        path: Path, with parameters in braces.
        run: Computes the response's JSON, or a response.
        body: Kind of the request's body; None has none.
        tei: Whether errors have TEI's form.
        early: Whether it answers before the models are loaded.
        writes: Whether it needs `--allow-writes`.
    """

    method: str
    path: str
    run: Callable[[Call, Any], Awaitable[Any]]
    body: type[Body] | None = None
    tei: bool = False
    early: bool = False
    writes: bool = False


async def _openapi(call: Call, _: None) -> Any:
    """This interface as an OpenAPI document."""
    return _document(bool(call.service.settings.keys))


@cache
def _document(with_keys: bool) -> dict[str, Any]:
    return described(ENDPOINTS, with_keys)


ENDPOINTS = (
    *(Endpoint("POST", path, reranking.rerank, RerankBody) for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
    Endpoint("POST", "/infinity/rerank", reranking.rerank_infinity, RerankBody),
    *(Endpoint("POST", path, reranking.score, ScoreBody) for path in ("/score", "/v1/score")),
    Endpoint("POST", "/classify", reranking.classify, ClassifyBody),
    Endpoint("POST", "/tokenize", reranking.tokenize, TokenizeBody),
    Endpoint("POST", "/v1/tokenize", reranking.tokenize_cohere, CohereTokenizeBody),
    *(Endpoint("POST", path, embedding.embeddings, EmbeddingsBody) for path in ("/v1/embeddings", "/embeddings")),
    Endpoint("POST", "/v1/embed", embedding.embed_cohere, CohereEmbedBody),
    Endpoint("POST", "/v2/embed", embedding.embed_cohere_v2, CohereEmbedV2Body),
    *(Endpoint("POST", path, embedding.embed_tei, TeiEmbedBody, tei=True) for path in ("/embed", "/")),
    Endpoint("POST", "/search", searching.search, SearchBody),
    Endpoint("GET", "/documents", searching.documents),
    Endpoint("POST", "/documents", searching.add, AddBody, writes=True),
    Endpoint("POST", "/documents/delete", searching.delete, DeleteBody, writes=True),
    Endpoint("GET", "/documents/{id:rest}", searching.get),
    Endpoint("DELETE", "/documents/{id:rest}", searching.delete_one, writes=True),
    *(Endpoint("GET", path, status.list_models) for path in ("/v1/models", "/models")),
    Endpoint("GET", "/v1/models/{id:rest}", status.get_model),
    *(Endpoint("GET", path, status.info) for path in ("/info", "/")),
    Endpoint("GET", "/health", status.health, early=True),
    Endpoint("GET", "/ready", status.ready),
    Endpoint("GET", "/metrics", status.metrics, early=True),
    Endpoint("GET", "/openapi.json", _openapi, early=True),
)


class _Rest(Convertor[str]):
    """The rest of a path, whatever characters an id has; Starlette's own ends before a line break."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """The rest as it is."""
        return value

    def to_string(self, value: str) -> str:
        """The rest as it is."""
        return value


class _Answer:
    """The endpoints of a path as an ASGI application."""

    def __init__(self, endpoints: Sequence[Endpoint], service: Service) -> None:
        self.endpoints = {endpoint.method: endpoint for endpoint in endpoints}
        self.path, self.service = shown_path(endpoints[0]), service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive)
        call = Call(self.service, request)
        endpoint = self.endpoints["GET" if scope["method"] == "HEAD" else scope["method"]]
        call.tei = endpoint.tei
        response = await self._response(call, endpoint)
        scope["texts"] = call.texts
        await response(scope, receive, send)

    async def _response(self, call: Call, endpoint: Endpoint) -> Response:
        try:
            if "{" not in self.path and call.request.scope["path"] != self.path:  # the router passes a line break
                raise RequestError(404, "no route; see /openapi.json")
            self._check(endpoint)
            call.limit_by_header()
            if endpoint.body is None:
                return _finished(call, await endpoint.run(call, None))
            data = await _read(call.request, call.service)
            return _finished(call, await endpoint.run(call, self._parsed(call, endpoint.body, data)))
        except (ClientGoneError, ClientDisconnect):
            return Response(status_code=CLIENT_GONE)
        except asyncio.CancelledError:  # the time to finish requests is over
            return error_response(RequestError(503, "the server ends", 1), call.tei)
        except Exception as error:  # noqa: BLE001  # answered and, if unexpected, logged without texts
            return error_response(self._without_path(as_request_error(error)), call.tei)
        finally:
            self._release(call)

    def _release(self, call: Call) -> None:
        """Stop counting the body's bytes once no thread works on it."""
        queue, size = self.service.queue, int(call.request.scope.get("bytes", 0))

        def release(_: object = None) -> None:
            queue.bytes -= size

        if call.running is None or call.running.done():
            release()
            return
        loop = asyncio.get_running_loop()

        def later(_: object) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(release)

        call.running.add_done_callback(later)

    def _check(self, endpoint: Endpoint) -> None:
        """Check what can be checked before the body is read.

        Raises:
            RequestError: The models are not loaded, the queue is full, or writing is not allowed.
        """
        service = self.service
        if not service.loaded and not endpoint.early:
            raise RequestError(503, "the models are being loaded", 1)
        if endpoint.writes and service.pipeline is not None and not service.settings.allow_writes:
            raise RequestError(403, "this server only reads its store; start it with --allow-writes to add and delete")
        if endpoint.body is not None:
            service.queue.check()

    def _parsed(self, call: Call, kind: type[Body], data: bytes) -> Body:
        settings = self.service.settings
        # Values of token ids, and a generous number of others.
        value = as_json(data, settings.max_tokens + 100 * settings.max_texts)
        call.tei = call.tei or kind.tei_field in value
        return parsed(kind, value, settings.ignore_unknown)

    def _without_path(self, error: RequestError) -> RequestError:
        """The error without the store's path, which is no concern of a caller's."""
        if self.service.pipeline is not None:
            error.message = error.message.replace(str(self.service.pipeline.store.folder), "the store")
        return error


def shown_path(endpoint: Endpoint) -> str:
    """An endpoint's path as people write it."""
    return endpoint.path.replace(":rest", "")


def _finished(call: Call, value: Any) -> Response:
    return value if isinstance(value, Response) else json_response(value, 200, call.headers)


async def _read(request: Request, service: Service) -> bytes:
    """The body.

    Raises:
        RequestError: It is too large (413), takes too long (408), or there are too many at once (429).
    """
    most, parts, size = service.settings.max_body, [], 0
    too_large = RequestError(413, f"the body is too large; expected at most {most} bytes")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most:
        raise too_large
    try:
        async with asyncio.timeout(service.settings.body_seconds):
            async for part in request.stream():
                if size + len(part) > most:
                    raise too_large
                size += len(part)
                request.scope["bytes"] = size
                service.queue.grow(len(part), most)
                parts.append(part)
    except TimeoutError:
        seconds = service.settings.body_seconds
        raise RequestError(408, f"the body did not arrive within {seconds:g} s") from None
    return b"".join(parts)


def application(service: Service, load: Callable[[], None]) -> ASGIApp:
    """The server as an ASGI application.

    Args:
        service: What it serves.
        load: Starts to load the models; called when the application starts.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        load()
        yield

    async def refused(request: Request, error: Exception) -> Response:
        problem = as_request_error(error)
        if problem.status == 404:
            problem.message = f"{request.method} {request.url.path[:100]} is no route; see /openapi.json"
        elif problem.status == 405:
            problem.message = f"{request.method} is no method of this route; see /openapi.json"
        return error_response(problem)

    by_path: dict[str, list[Endpoint]] = {}
    for endpoint in ENDPOINTS:
        by_path.setdefault(endpoint.path, []).append(endpoint)
    register_url_convertor("rest", _Rest())
    routes = [
        Route(path, _Answer(endpoints, service), methods=[endpoint.method for endpoint in endpoints])
        for path, endpoints in by_path.items()
    ]
    starlette = Starlette(routes=routes, exception_handlers={HTTPException: refused}, lifespan=lifespan)
    starlette.router.redirect_slashes = False
    app: ASGIApp = Guard(starlette, service, {shown_path(endpoint) for endpoint in ENDPOINTS})
    if origins := service.settings.allow_origins:
        exposed = ["X-Request-ID", "X-Degraded", "X-Truncated", "Retry-After"]
        app = CORSMiddleware(
            app,
            allow_origins=[origin.lower() for origin in origins],
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # the origin is what counts, and clients send headers of their own
            expose_headers=exposed,
        )
    return app
