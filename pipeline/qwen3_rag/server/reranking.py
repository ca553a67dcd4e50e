"""Scores, in the dialects of Cohere, Jina, TEI and vLLM."""

import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.models.embedder import Embedder
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.scores import RerankResult, best_first, probability
from qwen3_rag.server.bodies import (
    Activated,
    ClassifyBody,
    CohereTokenizeBody,
    RerankBody,
    ScoreBody,
    Scoring,
    TokenizeBody,
    text_inputs,
)
from qwen3_rag.server.call import Call
from qwen3_rag.server.failures import RequestError
from qwen3_rag.server.limits import Cut, Limits
from qwen3_rag.server.models import ServedReranker

__all__ = ["classify", "rerank", "rerank_infinity", "score", "tokenize", "tokenize_cohere"]


async def rerank(call: Call, body: RerankBody) -> Any:
    """Score documents for a query, best first; with `texts` as TEI answers, with `documents` as the others do."""
    call.tei = body.texts is not None
    return await _reranked(call, body, plain=False)


async def rerank_infinity(call: Call, body: RerankBody) -> Any:
    """As `/rerank`, but with documents as plain texts in the response, as Infinity answers."""
    return await _reranked(call, body, plain=True)


async def _reranked(call: Call, body: RerankBody, plain: bool) -> Any:
    if (body.texts is None) == (body.documents is None):
        raise InvalidArgumentError("expected either documents or texts, and exactly one of them")
    given, name = (body.documents, "documents") if body.texts is None else (body.texts, "texts")
    if not isinstance(given, list):
        raise InvalidArgumentError(f"{name} is {repr(given)[:60]}; expected a list of texts")
    call.take(len(given))
    documents = _joined(given, body.rank_fields) if body.rank_fields else text_inputs(given, name)
    (query,) = text_inputs(_single(body.query), "query")
    model = call.service.reranker_named(body.model)
    result = await _scores(call, model, query, documents, body)
    values = _values(result, body)
    order = best_first(result)
    if body.score_threshold is not None:
        likely = probability(result.log_odds)
        order = [i for i in order if likely[i] >= body.score_threshold]
    order = order[: body.most]
    if body.texts is not None:
        shown = _shows(body)
        return [{"index": i, "score": values[i], **({"text": documents[i]} if shown else {})} for i in order]
    rows: list[dict[str, Any]] = [{"index": i, "relevance_score": values[i]} for i in order]
    # vLLM's clients expect documents, of the other dialects only those that ask.
    if _shows(body) or (call.request.scope["path"] == "/rerank" and body.return_documents is None):
        for row in rows:
            own = given[row["index"]]
            row["document"] = documents[row["index"]] if plain else own if isinstance(own, dict) else {"text": own}
    degraded = _degraded(result)
    meta: dict[str, Any] = {
        "api_version": {"version": "1" if call.request.scope["path"].startswith("/v1/") else "2"},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": result.tokens, "output_tokens": 0},
    }
    if degraded:
        meta["warnings"] = [degraded]
    extra = {"degraded": degraded} if degraded else {}
    return {"id": _id("rerank"), "model": model.name, "results": rows, "meta": meta, "usage": _usage(result)} | extra


async def score(call: Call, body: ScoreBody) -> Any:
    """Score one text against one or several, or as many pairs, in the order of the request."""
    queries, documents = _sides(body)
    call.take(len(documents))
    if len(queries) not in (1, len(documents)):
        raise InvalidArgumentError(
            f"{len(queries)} queries and {len(documents)} documents; expected one query, or as many as documents"
        )
    model = call.service.reranker_named(body.model)
    if len(queries) == 1:
        result = await _scores(call, model, queries[0], documents, body)
    else:
        result = await _pairs(call, model, queries, documents, body)
    rows = [
        {"index": i, "object": "score", "score": value}
        for i, value in enumerate(_values(result, body))
        if result.read[i]
    ]
    return _listed(model, "score", rows, result)


async def classify(call: Call, body: ClassifyBody) -> Any:
    """Score pairs that come as the token ids of the reranker's whole template."""
    inputs = [body.input] if isinstance(body.input, list) and body.input and type(body.input[0]) is int else body.input
    if not isinstance(inputs, list) or not inputs or not all(_is_ids(each) for each in inputs):
        raise InvalidArgumentError(
            f"input is {repr(body.input)[:60]}; expected lists of token ids of the reranker's whole template: "
            "/v1/score and /v1/rerank take texts"
        )
    call.take(len(inputs))
    model = call.service.reranker_named(body.model)
    if sum(map(len, inputs)) > model.most:
        raise RequestError(413, f"the request has more than {model.most} tokens; expected fewer: send several")
    call.limit(body.deadline)

    def job(left: float | None, cancel: threading.Event) -> RerankResult:
        return _takes_ids(model).read_ids(inputs, left, cancel)

    result = await call.compute("rerank", job)
    _count(call, model, result)
    rows = [
        {"index": i, "label": "yes", "probs": [value], "num_classes": 1}
        for i, value in enumerate(_values(result, body))
        if result.read[i]
    ]
    return _listed(model, "classify", rows, result)


async def tokenize(call: Call, body: TokenizeBody) -> Any:
    """Token ids of a text, none of them a control token."""
    model, ids, pieces = await _tokenized(call, body.model, body.prompt)
    shown = pieces if body.return_token_strs else None
    return {"count": len(ids), "max_model_len": model.longest, "tokens": ids, "token_strs": shown}


async def tokenize_cohere(call: Call, body: CohereTokenizeBody) -> Any:
    """Token ids of a text, none of them a control token, as Cohere returns them."""
    _, ids, pieces = await _tokenized(call, body.model, body.text)
    return {"tokens": ids, "token_strings": pieces, "meta": {"api_version": {"version": "1"}}}


async def _tokenized(call: Call, name: str | None, text: str) -> tuple[Reranker | Embedder, list[int], list[str]]:
    call.take(1)
    service = call.service
    served = service.reranker if service.reranker and (name or "") in {"", *service.reranker.known} else None
    if served is None and service.embedder is None:
        service.reranker_named(name)
    model: Reranker | Embedder = served.measure if served else service.embedder_named(name)[0].model

    most = service.settings.max_tokens

    def job(left: float | None, cancel: threading.Event) -> tuple[list[int], list[str]]:
        Limits(model.spans, left, cancel).total([text], most + 1, most)
        tokens = model.loaded.tokens
        if tokens is None:
            raise RequestError(404, f"the runtime {model.runtime!r} takes texts, not token ids")
        (ids,) = tokens.encode([text])
        return ids, [tokens.plain.id_to_token(token_id) or "" for token_id in ids]

    return model, *await call.compute("tokenize", job)


async def _scores(
    call: Call, model: ServedReranker, query: str, documents: Sequence[str], body: Scoring
) -> RerankResult:
    call.limit(body.deadline)
    instruction, cut = body.sentence, _cut(body)
    result = await call.compute(
        "rerank", lambda left, cancel: model.score(query, documents, instruction, cut, left, cancel)
    )
    _count(call, model, result)
    return result


async def _pairs(
    call: Call, model: ServedReranker, queries: Sequence[str], documents: Sequence[str], body: Scoring
) -> RerankResult:
    """The scores of one document for each query."""
    call.limit(body.deadline)
    instruction, cut = body.sentence, _cut(body)

    pairs = list(zip(queries, documents, strict=True))

    def job(left: float | None, cancel: threading.Event) -> RerankResult:
        return model.score_pairs(pairs, instruction, cut, left, cancel)

    result = await call.compute("rerank", job)
    _count(call, model, result)
    return result


def _shows(body: RerankBody) -> bool:
    """Whether documents come back with their scores."""
    return bool(body.return_text) or body.return_documents in (True, "true")


def _single(query: Any) -> Any:
    if isinstance(query, list):
        raise InvalidArgumentError(f"query is {repr(query)[:60]}; expected a text")
    return query


def _joined(documents: Sequence[Any], names: Sequence[str]) -> list[str]:
    """Texts of documents that are objects, from some of their fields, as Cohere joins them."""
    texts = []
    for place, document in enumerate(documents):
        if not isinstance(document, dict) or not all(name in document for name in names):
            raise InvalidArgumentError(
                f"documents[{place}] is {repr(document)[:60]}; expected an object with the rank_fields "
                f"{', '.join(names)}"
            )
        texts.append("\n".join(f"{name}: {document[name]}" for name in names))
    return texts


def _sides(body: ScoreBody) -> tuple[list[str], list[str]]:
    """Queries and documents, under any of vLLM's names."""
    for first, seconds in (("text_1", ("text_2",)), ("queries", ("documents", "items")), ("data_1", ("data_2",))):
        for second in seconds:
            one, other = getattr(body, first), getattr(body, second)
            if one is not None and other is not None:
                return text_inputs(one, first), text_inputs(other, second)
    raise InvalidArgumentError(
        "expected text_1 and text_2, queries and documents, queries and items, or data_1 and data_2"
    )


def _cut(body: Scoring) -> Cut:
    pair = body.truncate_prompt_tokens
    return Cut(body.max_tokens_per_doc, None if pair in (None, -1) else pair, body.refuses, body.from_start)


def _values(result: RerankResult, body: Activated) -> list[float]:
    values: list[float] = (result.log_odds if body.wants_log_odds else probability(result.log_odds)).tolist()
    return values


def _takes_ids(model: ServedReranker) -> Reranker:
    if not isinstance(model.model, Reranker) or model.model.loaded.tokens is None:
        raise RequestError(404, "this server's reranker takes texts, not token ids; use /v1/score or /v1/rerank")
    return model.model


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)


def _degraded(result: RerankResult) -> str | None:
    if result.stopped is None:
        return None
    return f"{result.stopped}: {int(result.read.sum())} of {len(result.log_odds)} documents scored"


def _count(call: Call, model: ServedReranker, result: RerankResult) -> None:
    metrics = call.service.metrics
    metrics.texts.labels(model.name).inc(int(result.read.sum()))
    metrics.tokens.labels(model.name).inc(result.tokens)
    metrics.cut.labels(model.name).inc(result.truncated)
    call.say_degraded(_degraded(result))
    if result.truncated:
        call.headers["X-Truncated"] = str(result.truncated)


def _listed(model: ServedReranker, kind: str, rows: list[dict[str, Any]], result: RerankResult) -> dict[str, Any]:
    reply = {
        "id": _id(kind),
        "object": "list",
        "created": int(time.time()),
        "model": model.name,
        "data": rows,
        "usage": _usage(result),
    }
    degraded = _degraded(result)
    return reply | ({"degraded": degraded} if degraded else {})


def _usage(result: RerankResult) -> dict[str, int]:
    return {"prompt_tokens": result.tokens, "total_tokens": result.tokens, "completion_tokens": 0}


def _id(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex}"
