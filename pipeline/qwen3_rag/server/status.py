"""What a server says of itself."""

import time
from importlib.metadata import version
from typing import Any

import anyio.to_thread
from starlette.responses import Response

from qwen3_rag.server.call import Call
from qwen3_rag.server.failures import RequestError
from qwen3_rag.server.metrics import CONTENT_TYPE
from qwen3_rag.server.models import QUERY, ServedReranker
from qwen3_rag.server.service import Service

__all__ = ["health", "info", "list_models", "metrics", "ready"]

STARTED = int(time.time())
SHOWN = 100  # characters of an unknown name in a message
PATHS = ("path", "embedder", "reranker")


async def health(call: Call, _: None) -> Any:
    """Whether the process lives; needs no key."""
    return {"status": "ok"}


async def ready(call: Call, _: None) -> Any:
    """Whether the models are loaded and the store answers; 503 otherwise."""
    service = call.service
    if service.pipeline is not None:
        await anyio.to_thread.run_sync(service.pipeline.store.count)
    return {"status": "ready"}


async def metrics(call: Call, _: None) -> Any:
    """Counters in Prometheus's format."""
    return Response(call.service.metrics.text(), media_type=CONTENT_TYPE)


async def list_models(call: Call, _: None) -> Any:
    """The models' names; the embedder's with `:query` embeds queries."""
    rows = []
    if reranker := call.service.reranker:
        rows.append(_row(reranker.name, "rerank", reranker.longest))
    if embedder := call.service.embedder:
        longest = embedder.model.longest
        rows.append(_row(embedder.name, "embed documents", longest))
        rows.append(_row(embedder.name + QUERY, "embed queries", longest))
    return {"object": "list", "data": rows}


async def get_model(call: Call, _: None) -> Any:
    """One of the models of `/v1/models`."""
    name = call.request.path_params["id"]
    for row in (await list_models(call, None))["data"]:
        if row["id"] == name:
            return row
    raise RequestError(404, f"unknown model {name[:SHOWN]!r}; see /v1/models")


async def info(call: Call, _: None) -> Any:
    """The models and the store; the first fields are TEI's."""
    service = call.service
    served = service.reranker or service.embedder
    described: dict[str, Any] = {}
    if isinstance(served, ServedReranker):
        measure, kind = served.measure, {"reranker": {"id2label": {"0": "yes"}, "label2id": {"yes": 0}}}
        described = _tei(served.name, measure.runs_on, kind, measure.longest, service)
    elif served is not None:
        kind_of: dict[str, Any] = {"embedding": {"pooling": "last_token"}}
        described = _tei(served.name, served.model.runs_on, kind_of, served.model.longest, service)
    described["models"] = {
        name: {"name": each.name, **(each.measure if isinstance(each, ServedReranker) else each.model).runs_on}
        for name, each in (("embedder", service.embedder), ("reranker", service.reranker))
        if each is not None
    }
    if service.pipeline is not None:
        details = await anyio.to_thread.run_sync(service.pipeline.info)
        # Where the store and its models lie is no concern of a caller's.
        described["store"] = {name: value for name, value in details.items() if name not in PATHS}
    return described


def _tei(name: str, runs_on: dict[str, str], kind: dict[str, Any], longest: int, service: Service) -> dict[str, Any]:
    return {
        "model_id": name,
        "model_dtype": runs_on.get("dtype", ""),
        "model_type": kind,
        "max_concurrent_requests": service.settings.max_queue,
        "max_input_length": longest,
        "max_client_batch_size": service.settings.max_texts,
        "max_batch_tokens": service.settings.max_tokens,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": version("qwen3-rag"),
    }


def _row(name: str, task: str, longest: int) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": STARTED,
        "owned_by": "qwen3-rag",
        "root": name,
        "max_model_len": longest,
        "task": task,
    }
