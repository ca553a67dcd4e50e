"""What a parser process and its parent say to each other: JSON with its length in front, over a socket.

Both sides use this module. The parent trusts nothing that it receives: a hostile file may have taken over the parser.
"""

import json
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["Event", "checked", "messages_of", "receive", "receive_bytes", "send"]

# A part of a document: its name, then its values, as in ("heading", 2, "Tools"). `SHAPES` lists them all.
Event = tuple[Any, ...]
SHAPES: dict[str, tuple[type, ...]] = {
    "title": (str,),
    "outline": (int, str, int),  # level, title, page from 0
    "page": (str,),  # its text, or "" where a page begins whose headings and blocks follow
    "heading": (int, str),
    "block": (str, str),  # kind, text
    "metadata": (str, str),  # name, value
    "mark": (int, str),  # where a definition starts in code, and the names around it, one a line
    "record": (str,),  # a JSON object: one document of a file with many
    "more": (str,),  # the beginning of a text that is too long for one message
}
KINDS = ("prose", "list", "code", "table")
LARGEST = 4 << 20  # bytes of one message; the parent reserves no more than a few times this for a lying one
PART = 128 << 10  # characters of text in one event; JSON may need six bytes for each
OVERHEAD = 64  # characters that an event counts for beside its text
HEADER = 4  # bytes of a message's length


def messages_of(events: Iterable[Event]) -> Iterator[dict[str, list[Event]]]:
    """Pack events into messages that are small enough to send."""
    batch: list[Event] = []
    length = 0
    for event in events:
        for part in _parts(event):
            batch.append(part)
            length += len(part[-1]) + OVERHEAD if isinstance(part[-1], str) else len(part[2]) + OVERHEAD
            if length >= PART:
                yield {"events": batch}
                batch, length = [], 0
    if batch:
        yield {"events": batch}


def _parts(event: Event) -> Iterator[Event]:
    text = event[-1]
    if event[0] in ("page", "block", "record") and len(text) > PART:
        last = (len(text) - 1) // PART * PART
        for start in range(0, last, PART):
            yield ("more", text[start : start + PART])
        yield (*event[:-1], text[last:])
    else:
        yield event


def checked(message: object) -> list[Event]:
    """The events in a message.

    Raises:
        ValueError: It is not a list of events.
    """
    if not isinstance(message, dict) or not isinstance(events := message.get("events"), list):
        raise ValueError("not a list of events")
    return [_checked(event) for event in events]


def _checked(event: object) -> Event:
    if not isinstance(event, list) or not event or not isinstance(event[0], str):
        raise ValueError("not an event")
    name, *values = event
    if [type(value) for value in values] != list(SHAPES.get(name, (None,))):
        raise ValueError(f"wrong values in a {name[:20]!r}")
    if (name == "block" and values[0] not in KINDS) or (name == "heading" and values[0] not in range(1, 100)):
        raise ValueError(f"wrong values in a {name!r}")
    return (name, *values)


def send(channel: socket.socket, message: dict[str, Any], content: bytes = b"") -> None:
    """Send a message, and after it the bytes whose number it contains.

    Raises:
        OSError: The other side is gone, or the channel's timeout is over.
    """
    # A lone surrogate, which some parsers let through, becomes "?".
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    channel.sendall(len(body).to_bytes(HEADER, "big") + body)
    if content:
        channel.sendall(content)


def receive(channel: socket.socket, deadline: float | None = None) -> Any:
    """The next message; None if the other side is gone.

    Raises:
        TimeoutError: It has not arrived at `deadline`, a time of `time.monotonic`.
        ValueError: It is too long, or not JSON.
    """
    header = receive_bytes(channel, HEADER, deadline)
    if len(header) < HEADER:
        return None
    size = int.from_bytes(header, "big")
    if size > LARGEST:
        raise ValueError(f"a message of {size} bytes; expected at most {LARGEST}")
    body = receive_bytes(channel, size, deadline)
    try:
        return None if len(body) < size else json.loads(body)
    except RecursionError as error:
        raise ValueError("not JSON: nested too deeply") from error


def receive_bytes(channel: socket.socket, size: int, deadline: float | None = None) -> bytes:
    """The next bytes; fewer if the other side is gone.

    Raises:
        TimeoutError: They have not arrived at `deadline`.
    """
    content = bytearray(size)
    view, length = memoryview(content), 0
    while length < size:
        if deadline is not None:
            channel.settimeout(max(deadline - time.monotonic(), 1e-6))
        try:
            count = channel.recv_into(view[length:])
        except ConnectionResetError:
            count = 0
        if not count:
            break
        length += count
    view.release()
    return bytes(content[:length]) if length < size else bytes(content)
