"""HTTP connections with limits on time and size: for sending a request, and for taking a response."""

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["TimedProtocol", "timed"]

LARGEST_HEAD = 65536  # bytes of request line and headers; also of trailers, and of what divides a body into chunks
FRAMING = 8  # bytes that may divide a chunk for each byte of the body, which allows chunks of one byte
GRACE = 5.0  # seconds for the application's own error about a body that does not arrive
END = b"\r\n\r\n"
# The parser would take what follows an offer of HTTP/2 for another protocol, and lose the body.
HTTP = re.compile(rb"(?!CONNECT )[A-Z](?!.*(?<!\r)\n)", re.DOTALL)  # begins with a method, and lines end as they must
UPGRADE = re.compile(rb"\r\n(?:upgrade|http2-settings)[ \t]*:[^\r\n]*(?=\r\n)", re.IGNORECASE)


class TimedProtocol(HttpToolsProtocol):
    """A connection that is closed if its client sends or reads too slowly.

    Uvicorn limits idle connections only: half a request would stay for ever, and so would a response that nobody reads.
    """

    body_seconds = 30.0
    send_seconds = 60.0
    _receiving: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None
    _head = b""  # of a request whose headers have not all arrived
    _between = True  # no request's headers have arrived, or all of it has
    opened = 0.0  # time on the loop's clock
    most_connections = 4096
    _parsing = False  # the parser has a part of a head
    _fed = _body = 0  # bytes of a request after its headers, and those of them that are its body
    _unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request."""
        super().connection_made(transport)
        self.access_log = False  # a path may contain a document's id
        self.opened = self.loop.time()
        self._make_room()
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request. Its head is kept until it is complete."""
        if self._parsing:  # the head of a request that came together with the one before
            self._fed += len(data)
        elif self._between:
            self._unset_keepalive_if_required()
            self._expect()
            self._head = (self._head + data).lstrip(b"\r\n")
            end = self._head.find(END)
            if self._head and not HTTP.match(self._head if end < 0 else self._head[:end]):
                self.send_400_response("Invalid HTTP request received.")
                return
            if max(end, len(self._head) if end < 0 else 0) > LARGEST_HEAD:
                self._refuse()
            if end < 0 or self.transport.is_closing():
                return
            data, self._head = UPGRADE.sub(b"", self._head[: end + 2]) + self._head[end + 2 :], b""
        else:
            self._fed += len(data)
        super().data_received(data)
        if self._fed > FRAMING * self._body + LARGEST_HEAD and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        """A request begins; after another in the same bytes, nothing else sets the time."""
        super().on_message_begin()
        self._parsing, self._fed, self._body = True, 0, 0
        self._expect()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those that follow a body are left out, because nothing checks them."""
        if self._between:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its body follows, if it has one."""
        self._parsing = self._between = False
        self._fed = self._body = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It has arrived."""
        self._between = True
        _cancel(self._receiving)
        self._receiving = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A response has been written, perhaps not sent."""
        super().on_response_complete()
        self._watch_sending()
        if self._parsing or self._head:  # the next request has begun
            self._expect()

    def pause_writing(self) -> None:
        """The client takes less than the server sends."""
        super().pause_writing()
        self._watch_sending()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        _cancel(self._receiving)
        _cancel(self._sending)
        super().connection_lost(exc)

    def _make_room(self) -> None:
        """Close the oldest connection without a request if there are too many, first of those that never had one."""
        if len(self.connections) <= self.most_connections:
            return
        free = [
            each for each in self.connections if isinstance(each, TimedProtocol) and each is not self and each._idle
        ]
        oldest = min(free, key=lambda each: (each.cycle is not None, each.opened), default=self)
        self.connections.discard(oldest)
        oldest.transport.abort()

    @property
    def _idle(self) -> bool:
        """Whether no complete request came yet, or its response is sent and no other has begun."""
        if self.cycle is None:
            return True
        between = self.cycle.response_complete and not self._head and not self._parsing
        return bool(between and not self.transport.get_write_buffer_size())

    def _watch_sending(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        if self._unsent and self._sending is None:
            self._sending = self.loop.call_later(self.send_seconds, self._drop_if_stuck)

    def _drop_if_stuck(self) -> None:
        """Close a connection whose client has taken nothing since; else look again later."""
        before, self._sending = self._unsent, None
        self._watch_sending()
        if self._unsent >= before:
            self.transport.abort()

    def _refuse(self) -> None:
        self.send_400_response(f"The request has more than {LARGEST_HEAD} bytes besides its body.")

    def _expect(self) -> None:
        waiting = self.cycle is not None and not self.cycle.response_complete  # for the response before
        if self._receiving is None and not waiting:
            self._receiving = self.loop.call_later(self.body_seconds + GRACE, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def timed(body: float, send: float, most: int) -> type[Any]:
    """A class of connections with these limits: seconds to send a request and to take a response, and their number."""
    return type("Timed", (TimedProtocol,), {"body_seconds": body, "send_seconds": send, "most_connections": most})
