"""HTTP connections with limits on time: for sending a request, and for taking a response."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["TimedProtocol", "timed"]

LARGEST_HEAD = 65536  # bytes of request line and headers
GRACE = 5.0  # seconds for the application's own error about a body that does not arrive


class TimedProtocol(HttpToolsProtocol):
    """A connection that is closed if its client sends or reads too slowly.

    Uvicorn limits idle connections only: half a request would stay for ever, and so would a response that nobody reads.
    """

    body_seconds = 30.0
    send_seconds = 60.0
    _receiving: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None
    _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request."""
        super().connection_made(transport)
        self.access_log = False  # a path may contain a document's id
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        super().data_received(data)
        # Counted while a head is incomplete; on_headers_complete starts again.
        if self._head >= 0:
            self._head += len(data)
            if self._head > LARGEST_HEAD and not self.transport.is_closing():
                self.send_400_response(f"The request's headers are longer than {LARGEST_HEAD} bytes.")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head = 0
        self._expect()

    def on_headers_complete(self) -> None:
        """Its body follows, if it has one."""
        self._head = -1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """It has arrived."""
        _cancel(self._receiving)
        self._receiving = None
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client takes less than the server sends."""
        super().pause_writing()
        self._sending = self._sending or self.loop.call_later(self.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken what waited."""
        _cancel(self._sending)
        self._sending = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        _cancel(self._receiving)
        _cancel(self._sending)
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._receiving is None:
            self._receiving = self.loop.call_later(self.body_seconds + GRACE, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def timed(body: float, send: float) -> type[Any]:
    """A class of connections with these limits, in seconds."""
    return type("Timed", (TimedProtocol,), {"body_seconds": body, "send_seconds": send})
