"""Vectors, in the dialects of OpenAI, Jina, Cohere and TEI."""

import base64
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.prompts import INSTRUCTIONS
from qwen3_rag.scores import EmbedResult
from qwen3_rag.server.bodies import (
    CohereEmbedBody,
    CohereEmbedV2Body,
    Embedding,
    EmbeddingsBody,
    TeiEmbedBody,
    text_inputs,
)
from qwen3_rag.server.call import Call
from qwen3_rag.server.limits import Cut
from qwen3_rag.server.models import QUERY, ServedEmbedder

__all__ = ["embed_cohere", "embed_cohere_v2", "embed_tei", "embeddings"]

# Values of `input_type`, `task` and `prompt_name` by the side they mean.
SIDES = {
    "query": True,
    "search_query": True,
    "retrieval.query": True,
    "document": False,
    "passage": False,
    "search_document": False,
    "retrieval.passage": False,
    "classification": False,
    "clustering": False,
    "separation": False,
    "text-matching": False,
}


async def embeddings(call: Call, body: EmbeddingsBody) -> Any:
    """Vectors as OpenAI and Jina return them; the model's name with `:query` embeds queries."""
    model, result = await _embedded(call, body, _texts_or_ids(body.input), body.dimensions, None)
    types = body.embedding_type if isinstance(body.embedding_type, list) else [body.embedding_type]
    encoded = "base64" in (body.encoding_format, body.encoding_type, *types[:1])
    rows = [
        {"object": "embedding", "index": i, "embedding": _base64(row) if encoded else row}
        for i, row in enumerate(result.vectors)
    ]
    usage = {"prompt_tokens": result.tokens, "total_tokens": result.tokens}
    return {"object": "list", "data": rows, "model": body.model or model.name, "usage": usage}


async def embed_tei(call: Call, body: TeiEmbedBody) -> Any:
    """Vectors as TEI returns them."""
    call.tei = True
    _, result = await _embedded(call, body, text_inputs(body.inputs, "inputs"), body.dimensions, None)
    return result.vectors


async def embed_cohere(call: Call, body: CohereEmbedBody) -> Any:
    """Vectors as Cohere returns them in version 1."""
    texts, result = await _cohere(call, body)
    reply = {"id": str(uuid.uuid4()), "texts": texts, "meta": _meta(result, "1")}
    if body.embedding_types:
        return reply | {"response_type": "embeddings_by_type", "embeddings": _by_type(result, body.embedding_types)}
    return reply | {"response_type": "embeddings_floats", "embeddings": result.vectors}


async def embed_cohere_v2(call: Call, body: CohereEmbedV2Body) -> Any:
    """Vectors as Cohere returns them in version 2."""
    texts, result = await _cohere(call, body)
    reply = {"id": str(uuid.uuid4()), "texts": texts, "meta": _meta(result, "2")}
    types = body.embedding_types or ["float"]
    return reply | {"response_type": "embeddings_by_type", "embeddings": _by_type(result, types)}


async def _cohere(call: Call, body: CohereEmbedBody) -> tuple[list[str], EmbedResult]:
    if (body.texts is None) == (body.inputs is None):
        raise InvalidArgumentError("expected either texts or inputs, and exactly one of them")
    if body.dimensions and body.output_dimension and body.dimensions != body.output_dimension:
        raise InvalidArgumentError(
            f"dimensions is {body.dimensions} and output_dimension is {body.output_dimension}; expected one of them"
        )
    if body.texts is None:
        texts = [_content(each, place) for place, each in enumerate(body.inputs)]
    else:
        texts = text_inputs(_listed(body.texts, "texts"), "texts")
    _, result = await _embedded(call, body, texts, body.dimensions or body.output_dimension, body.max_tokens)
    return texts, result


async def _embedded(
    call: Call, body: Embedding, inputs: list[str] | list[list[int]], dimensions: int | None, most: int | None
) -> tuple[ServedEmbedder, EmbedResult]:
    call.take(len(inputs))
    call.limit(body.deadline)
    model, by_name = call.service.embedder_named(body.model)
    query, instruction = _side(body, by_name, model)
    if body.truncate_prompt_tokens not in (None, -1):
        most = min(body.truncate_prompt_tokens - 1, most or body.truncate_prompt_tokens)
        if most < 1:
            raise InvalidArgumentError(
                f"truncate_prompt_tokens is {body.truncate_prompt_tokens}; expected -1, or 2 or more with the end token"
            )
    cut = Cut(most, None, body.refuses, body.from_start)
    result = await call.compute(
        "embed", lambda left, cancel: model.embed(inputs, query, instruction, dimensions, cut, left, cancel)
    )
    metrics = call.service.metrics
    metrics.texts.labels(model.name).inc(len(inputs))
    metrics.tokens.labels(model.name).inc(result.tokens)
    metrics.cut.labels(model.name).inc(result.truncated)
    if result.truncated:
        call.headers["X-Truncated"] = str(result.truncated)
    return model, result


def _side(body: Embedding, by_name: bool, model: ServedEmbedder) -> tuple[bool, str | None]:
    """Whether the texts are queries, and their instruction.

    Raises:
        InvalidArgumentError: An unknown side, two sides that contradict each other, or an instruction for documents.
    """
    instruction, sides = body.sentence, {}
    if by_name:
        sides[f"model {body.model!r}"] = True
    named = {**INSTRUCTIONS, **model.model.instructions}
    for name in ("input_type", "task", "prompt_name"):
        value = getattr(body, name)
        if value is None:
            continue
        if name == "prompt_name" and value in named and value not in SIDES:
            if instruction not in (None, value):
                raise InvalidArgumentError(
                    f"instruction is {instruction!r} and prompt_name is {value!r}; expected one of them"
                )
            sides[f"{name} {value!r}"], instruction = True, value
        elif value.lower() in SIDES:
            sides[f"{name} {value!r}"] = SIDES[value.lower()]
        else:
            known = [*SIDES, *named] if name == "prompt_name" else list(SIDES)
            raise InvalidArgumentError(f"{name} is {value!r}; expected one of: {', '.join(known)}")
    if len(set(sides.values())) > 1:
        raise InvalidArgumentError(f"{' and '.join(sides)} contradict each other; expected queries or documents")
    query = any(sides.values())
    if instruction is not None and not query:
        raise InvalidArgumentError(
            f"instruction is {instruction!r}, but documents take none; expected queries: input_type 'query', or the "
            f"model {model.name + QUERY!r}"
        )
    return query, instruction


def _texts_or_ids(value: Any) -> list[str] | list[list[int]]:
    if isinstance(value, list) and value and type(value[0]) is int:
        value = [value]
    if isinstance(value, list) and value and isinstance(value[0], list):
        for place, ids in enumerate(value):
            if not isinstance(ids, list) or not ids or not all(type(each) is int for each in ids):
                raise InvalidArgumentError(f"input[{place}] is {repr(ids)[:60]}; expected a list of token ids")
        return value
    return text_inputs(value, "input")


def _content(value: Any, place: int) -> str:
    """The text of one of Cohere's `inputs`, which are lists of parts."""
    parts = value.get("content") if isinstance(value, dict) else None
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise InvalidArgumentError(f"inputs[{place}] is {repr(value)[:60]}; expected one text in its content")
    return texts[0]


def _listed(value: Any, name: str) -> Any:
    if not isinstance(value, list):
        raise InvalidArgumentError(f"{name} is {repr(value)[:60]}; expected a list of texts")
    return value


def _by_type(result: EmbedResult, types: Sequence[str]) -> dict[str, Any]:
    rows = result.vectors
    return {name: [_base64(row) for row in rows] if name == "base64" else rows for name in types}


def _base64(row: NDArray[np.float32]) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def _meta(result: EmbedResult, version: str) -> dict[str, Any]:
    return {"api_version": {"version": version}, "billed_units": {"input_tokens": result.tokens}}
