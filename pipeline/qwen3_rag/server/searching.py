"""The store's own interface: search, read, and with permission add and delete."""

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

import anyio.to_thread

from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.records import Document, IndexReport, Results
from qwen3_rag.server.bodies import AddBody, DeleteBody, Instructed, SearchBody
from qwen3_rag.server.call import Call
from qwen3_rag.server.failures import RequestError
from qwen3_rag.server.limits import Limits

__all__ = ["add", "delete", "delete_one", "documents", "get", "search"]

PARTS = ("line", "lines", "start", "end", "page")
MOST_LISTED, MOST_CANDIDATES = 1000, 10_000
SHOWN = 100  # characters of an unknown id in a message
SHORTEST = 0.001  # seconds of a deadline that has passed


async def search(call: Call, body: SearchBody) -> Any:
    """Find passages; the arguments are those of `Pipeline.search`."""
    store = call.service.store
    call.take(1)
    call.limit(body.deadline)
    if isinstance(body.candidates, int) and body.candidates > MOST_CANDIDATES:
        raise InvalidArgumentError(f"candidates is {body.candidates}; expected at most {MOST_CANDIDATES}")
    arguments = {name: getattr(body, name) for name in SearchBody.model_fields.keys() - Instructed.model_fields.keys()}
    instruction = body.sentence

    def job(left: float | None, cancel: Any) -> Results:
        seconds = None if left is None else max(left, SHORTEST)
        return store.search(**arguments, instruction=instruction, deadline=seconds, cancel=cancel)

    results = await call.compute("search", job)
    for stage, seconds in results.timings.items():
        call.service.metrics.stages.labels(f"search: {stage}").observe(seconds)
    call.say_degraded(results.degraded)
    return {
        "hits": [asdict(hit) | {"citation": hit.cite()} for hit in results],
        "timings": results.timings,
        "degraded": results.degraded,
        "truncated": results.truncated,
        "reread": results.reread,
        "answered": results.answered,
        "uncalibrated": results.uncalibrated,
    }


async def get(call: Call, _: None) -> Any:
    """A document, or with `line` and `lines`, `start` and `end`, or `page` a part of it."""
    store, name = call.service.store, call.request.path_params["id"]
    (document,) = await anyio.to_thread.run_sync(store.get, [name])
    if document is None:
        raise RequestError(404, f"there is no document {name[:SHOWN]!r}")
    _check_parameters(call, PARTS)
    numbers = {key: _number(call, key) for key in PARTS}
    part = await anyio.to_thread.run_sync(partial(_part, store, document, **numbers))
    return {**asdict(document), "metadata": dict(document.metadata), "text": part}


def _part(
    store: Pipeline,
    document: Document,
    line: int | None,
    lines: int | None,
    start: int | None,
    end: int | None,
    page: int | None,
) -> str:
    if lines == 0:
        raise InvalidArgumentError("lines is 0; expected at least 1")
    by_line = None if line is None and lines is None else (_or(line, 1), _or(lines, len(document.text) + 1))
    by_place = None if start is None and end is None else (start or 0, _or(end, len(document.text)))
    if by_line is None and by_place is None and page is None:
        return document.text
    return store.read_part(document.id, lines=by_line, characters=by_place, page=page) or ""


async def documents(call: Call, _: None) -> Any:
    """Ids, titles and sources of documents whose id begins with `prefix`, at most `limit`."""
    _check_parameters(call, ("prefix", "limit"))
    store, limit = call.service.store, _number(call, "limit")
    limit = 100 if limit is None else limit
    if not 1 <= limit <= MOST_LISTED:
        raise InvalidArgumentError(f"limit is {limit}; expected 1 to {MOST_LISTED}")
    prefix = call.request.query_params.get("prefix", "")
    entries = await anyio.to_thread.run_sync(lambda: [*islice(store.documents(prefix), limit + 1)])
    return {"documents": [asdict(entry) for entry in entries[:limit]], "more": len(entries) > limit}


async def add(call: Call, body: AddBody) -> Any:
    """Add documents in one commit, replacing those with the same ids; they are searchable when this returns."""
    store, settings = call.service.store, call.service.settings
    call.take(len(body.documents))
    # None is a hash of the text.
    new = [Document(**each.model_dump(exclude_none=True)) for each in body.documents]
    began = time.monotonic()
    # A write that has begun is finished, also for a client that has left: what it acknowledges is kept.

    def job() -> IndexReport:
        texts = (document.text for document in new)
        limits = Limits(store.embedder.spans, None, threading.Event())
        limits.total(texts, settings.max_tokens + 1, settings.max_tokens)
        return store.add(new)

    report = await call.write(job)
    return {"ids": [document.id for document in new], "report": asdict(report), "seconds": time.monotonic() - began}


async def delete(call: Call, body: DeleteBody) -> Any:
    """Delete documents; unknown ids are ignored."""
    store = call.service.store
    call.take(len(body.ids))
    return {"deleted": await call.write(lambda: store.delete(body.ids))}


async def delete_one(call: Call, _: None) -> Any:
    """Delete a document."""
    store, name = call.service.store, call.request.path_params["id"]
    if not await call.write(lambda: store.delete([name])):
        raise RequestError(404, f"there is no document {name[:SHOWN]!r}")
    return {"deleted": 1}


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _check_parameters(call: Call, known: Sequence[str]) -> None:
    for name in call.request.query_params:
        if name not in known:
            raise InvalidArgumentError(f"unknown parameter {name[:SHOWN]!r}; expected: {', '.join(known)}")


def _number(call: Call, name: str) -> int | None:
    value = call.request.query_params.get(name)
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 12:
        raise InvalidArgumentError(f"{name} is {value[:20]!r}; expected a whole number")
    return int(value)
