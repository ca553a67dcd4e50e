"""What the client scripts share: the request on standard input, the report on standard output, nothing else there."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # BASE is on this machine

REQUEST = json.load(sys.stdin)
BASE, KEY = REQUEST["base"], REQUEST["key"] or "none"
EMBEDDER, RERANKER = REQUEST["embedder"], REQUEST["reranker"]
QUERY, DOCUMENTS = REQUEST["query"], REQUEST["documents"]
DIMENSIONS = REQUEST.get("dimensions")  # where given, calls that ask for fewer dimensions are made as well
UNKNOWN = "no-such-model"

REPORT, _stdout = {}, sys.stdout
sys.stdout = sys.stderr  # what libraries print


def _call(label: str, call: Callable[[], Any], entry: Callable[[Any], dict[str, Any]]) -> None:
    try:
        REPORT[label] = entry(call())
    except Exception as error:  # noqa: BLE001  # what its user would see, whichever the client raises
        status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
        REPORT[label] = {"kind": "error", "message": str(error), "type": type(error).__name__, "status": status}


def scores(label: str, call: Callable[[], Iterable[tuple[int, float]]]) -> None:
    """A rerank call, as pairs of a document's index and its score."""

    def entry(pairs: Iterable[tuple[int, float]]) -> dict[str, Any]:
        found = {index: float(score) for index, score in pairs}
        return {"kind": "scores", "scores": [found.get(index) for index in range(len(DOCUMENTS))]}

    _call(label, call, entry)


def _vectors(label: str, kind: str, call: Callable[[], Iterable[Iterable[float]]]) -> None:
    _call(label, call, lambda rows: {"kind": kind, "vectors": [[float(number) for number in row] for row in rows]})


def documents(label: str, call: Callable[[], Iterable[Iterable[float]]]) -> None:
    """A call that embeds the documents, in their order."""
    _vectors(label, "documents", call)


def query(label: str, call: Callable[[], Iterable[float]]) -> None:
    """A call that embeds the query."""
    _vectors(label, "query", lambda: [call()])


def info(label: str, call: Callable[[], Any]) -> None:
    """A call that asks about the server."""
    _call(label, call, lambda value: {"kind": "info", "value": value})


def error(label: str, call: Callable[[], Any]) -> None:
    """A call that the server must refuse."""
    _call(label, call, lambda value: {"kind": "accepted", "value": repr(value)[:500]})


def report() -> None:
    """Prints what the calls returned, as the one line of standard output."""
    json.dump(REPORT, _stdout)
    _stdout.flush()
