"""One request on its way: a place in the queue, a thread, a deadline, and a client that waits."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import anyio.to_thread
from starlette.requests import Request

from qwen3_rag.server.failures import RequestError
from qwen3_rag.server.service import Service

__all__ = ["TIMEOUT_HEADER", "Call", "ClientGoneError"]

TIMEOUT_HEADER = "X-Request-Timeout"
Result = TypeVar("Result")
Job = Callable[[float | None, threading.Event], Result]  # gets the seconds left, and the event that cancels it


class ClientGoneError(Exception):
    """The client closed the connection before its response."""


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
        """Run a job that writes; one at a time, and finished even if the client leaves or the server ends.

        Raises:
            RequestError: The queue is full.
        """
        service = self.service

        def work() -> Result:
            with service.being_written:
                return job()

        entered = service.queue.enter()
        try:
            return await anyio.to_thread.run_sync(work, limiter=service.writing)
        finally:
            service.queue.leave(entered)
