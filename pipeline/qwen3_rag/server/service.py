"""What a server serves; and what a request takes there: a place in the queue, a thread, a deadline."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.models.cascade import Cascade
from qwen3_rag.models.embedder import Embedder
from qwen3_rag.models.engine.work import Work
from qwen3_rag.models.protocols import EmbedderProtocol, RerankerProtocol
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.server.failures import RequestError
from qwen3_rag.server.metrics import Metrics
from qwen3_rag.server.models import QUERY, ServedEmbedder, ServedReranker
from qwen3_rag.server.queue import Queue
from qwen3_rag.server.settings import ServerSettings

__all__ = ["TIMEOUT_HEADER", "Call", "ClientGoneError", "Service"]

TIMEOUT_HEADER = "X-Request-Timeout"
SHOWN = 60  # characters of an unknown name in a message
Result = TypeVar("Result")
Job = Callable[[float | None, threading.Event], Result]  # gets the seconds left, and the event that cancels it
logger = logging.getLogger("qwen3_rag.server")


class ClientGoneError(Exception):
    """The client closed the connection before its response."""


class Service:
    """Models, a store, and what requests share.

    Args:
        settings: What the server takes.
        embedder: An embedder to serve.
        reranker: A reranker to serve.
        pipeline: A store to serve; its models are served too, unless others are passed.
        embedder_name: The embedder's name in requests; None is the model's own.
        reranker_name: The reranker's name in requests; None is the model's own.

    Raises:
        InvalidArgumentError: Nothing to serve, or two models of one name.
    """

    def __init__(
        self,
        settings: ServerSettings,
        embedder: EmbedderProtocol | None = None,
        reranker: RerankerProtocol | None = None,
        pipeline: Pipeline | None = None,
        embedder_name: str | None = None,
        reranker_name: str | None = None,
    ) -> None:
        self.settings, self.pipeline = settings, pipeline
        if pipeline is not None:
            embedder, reranker = embedder or pipeline.embedder, reranker or pipeline.reranker
        if embedder is None and reranker is None:
            raise InvalidArgumentError("nothing to serve; expected --embedder, --reranker or --store")
        self.embedder = (
            ServedEmbedder(embedder, embedder_name, settings.max_tokens) if isinstance(embedder, Embedder) else None
        )
        self.reranker = (
            ServedReranker(reranker, reranker_name, settings.max_tokens)
            if isinstance(reranker, Reranker | Cascade)
            else None
        )
        if self.embedder and self.reranker and self.embedder.name == self.reranker.name:
            raise InvalidArgumentError(
                f"embedder and reranker are both named {self.embedder.name!r}; expected two names: pass "
                "--embedder-name or --reranker-name"
            )
        self.queue = Queue(settings.max_queue)
        # A thread for each place: who has one waits in the engine's queue, where deadlines count.
        self.threads = ThreadPoolExecutor(settings.max_queue, "qwen3-rag-serve")
        self.metrics = Metrics(self.queue, self._works)
        self.loaded = False

    @cached_property
    def writing(self) -> anyio.CapacityLimiter:
        """Lets one writer at a time have a thread."""
        return anyio.CapacityLimiter(1)

    def load(self) -> None:
        """Use everything once, so that the first request does not wait."""
        for model in (self.embedder, self.reranker):
            if model is not None:
                model.load(self.settings.compile)
        if self.pipeline is not None:
            self.pipeline.search("loading", top_k=1, rerank=False)
        self.loaded = True

    def _works(self) -> Mapping[str, Work]:
        if not self.loaded:
            return {}
        works: dict[str, Work] = {}
        for model in (self.embedder, self.reranker):
            for place, work in enumerate(model.works if model else ()):
                works[f"{model.name}{f' stage {place}' if place else ''}" if model else ""] = work
        return works

    def reranker_named(self, name: str | None) -> ServedReranker:
        """The reranker, if `name` is its name or None.

        Raises:
            RequestError: There is none of this name (404).
        """
        if self.reranker is None:
            raise RequestError(404, "this server has no reranker; start it with --reranker")
        if name and name not in self.reranker.known:
            shown = repr(name[:SHOWN])
            raise RequestError(404, f"unknown model {shown}; the reranker's name is {self.reranker.name!r}")
        return self.reranker

    def embedder_named(self, name: str | None) -> tuple[ServedEmbedder, bool]:
        """The embedder, if `name` is its name or None; and whether the name embeds queries.

        Raises:
            RequestError: There is none of this name (404).
        """
        if self.embedder is None:
            raise RequestError(404, "this server has no embedder; start it with --embedder")
        base = (name or "").removesuffix(QUERY)
        if base and base not in self.embedder.known:
            own = self.embedder.name
            shown = repr((name or "")[:SHOWN])
            raise RequestError(
                404, f"unknown model {shown}; expected {own!r} for documents or {own + QUERY!r} for queries"
            )
        return self.embedder, (name or "").endswith(QUERY)

    @property
    def store(self) -> Pipeline:
        """The store.

        Raises:
            RequestError: There is none (404).
        """
        if self.pipeline is None:
            raise RequestError(404, "this server has no store; start it with --store")
        return self.pipeline


class Call:
    """One request on its way.

    Args:
        service: What it asks.
        request: The request.

    Attributes:
        tei: Whether errors have TEI's form.
        headers: Headers of the response.
        deadline: Value of `time.monotonic()` to stop at, or None.
        texts: Number of texts in the request, for the log.
        running: The last job's thread.
    """

    def __init__(self, service: Service, request: Request) -> None:
        self.service, self.request = service, request
        self.tei, self.texts = False, 0
        self.headers: dict[str, str] = {}
        self.arrived = time.monotonic()
        self.running: Future[Any] | None = None
        self.deadline: float | None = None
        self.limit(service.settings.deadline)

    def limit(self, seconds: float | None) -> None:
        """Set a deadline; the earliest counts."""
        if seconds is not None:
            at = self.arrived + seconds
            self.deadline = at if self.deadline is None else min(self.deadline, at)

    def limit_by_header(self) -> None:
        """Set the deadline of the request's header.

        Raises:
            RequestError: It is no number of seconds (422).
        """
        value = self.request.headers.get(TIMEOUT_HEADER)
        if value is None:
            return
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            raise RequestError(422, f"{TIMEOUT_HEADER} is {value[:20]!r}; expected seconds")
        self.limit(seconds)

    def take(self, texts: int) -> None:
        """Count the request's texts.

        Raises:
            RequestError: There are too many (413).
        """
        self.texts = texts
        if texts > self.service.settings.max_texts:
            raise RequestError(
                413, f"the request has {texts} texts; expected at most {self.service.settings.max_texts}: send several"
            )

    def say_degraded(self, reason: str | None) -> None:
        """Say in a header why the response is not complete."""
        if reason:
            self.headers["X-Degraded"] = reason.encode("ascii", "replace").decode()

    async def compute(self, stage: str, job: Job[Result]) -> Result:
        """Run a job of the models in a thread; if the client leaves, it is cancelled.

        The job keeps its place in the queue until its thread is done, also without its client.

        Raises:
            RequestError: The queue is full.
            ClientGoneError: The client left.
        """
        service, cancel = self.service, threading.Event()
        queue, loop = service.queue, asyncio.get_running_loop()
        entered = queue.enter()

        def work() -> Result:
            began = time.monotonic()
            service.metrics.stages.labels("queue").observe(began - entered)
            left = None if self.deadline is None else max(0.0, self.deadline - began)
            try:
                return job(left, cancel)
            finally:
                service.metrics.stages.labels(stage).observe(time.monotonic() - began)

        def leave(_: object) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(queue.leave, entered)

        try:
            running = service.threads.submit(work)
        except BaseException:  # no thread could be started
            cancel.set()
            queue.leave(entered)
            raise
        running.add_done_callback(leave)
        self.running = running
        waited = asyncio.wrap_future(running)
        # Without a client nobody asks for the error, which may contain texts; asyncio would log it.
        waited.add_done_callback(lambda future: future.cancelled() or future.exception())
        try:
            return await self._while_connected(waited)
        finally:
            cancel.set()

    async def _while_connected(self, work: "asyncio.Future[Result]") -> Result:
        gone = asyncio.ensure_future(self._disconnected())
        waited: set[asyncio.Future[Any]] = {work, gone}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.service.metrics.gone.inc()
                raise ClientGoneError
            return work.result()
        finally:
            gone.cancel()

    async def _disconnected(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass

    async def write(self, job: Callable[[], Result]) -> Result:
        """Run a job that writes; one at a time, and finished even if the client leaves.

        Raises:
            RequestError: The queue is full.
        """
        service = self.service
        entered = service.queue.enter()
        try:
            return await anyio.to_thread.run_sync(job, limiter=service.writing)
        finally:
            service.queue.leave(entered)
