"""The openai package: embeddings, models, and rerank and score as its undocumented endpoints."""

import asyncio
from typing import Any

import client_calls as calls
from client_calls import BASE, DIMENSIONS, DOCUMENTS, EMBEDDER, KEY, QUERY, RERANKER, UNKNOWN
from openai import AsyncOpenAI, OpenAI

client = OpenAI(base_url=f"{BASE}/v1", api_key=KEY, max_retries=0)


def embed(texts: str | list[str], **options: Any) -> list[list[float]]:
    response = client.embeddings.create(**{"model": EMBEDDER, "input": texts, **options})
    return [item.embedding for item in sorted(response.data, key=lambda item: item.index)]


async def embed_async() -> list[list[float]]:
    async with AsyncOpenAI(base_url=f"{BASE}/v1", api_key=KEY, max_retries=0) as asynchronous:
        response = await asynchronous.embeddings.create(model=EMBEDDER, input=DOCUMENTS)
    return [item.embedding for item in response.data]


def rerank() -> list[tuple[int, float]]:
    body = {"model": RERANKER, "query": QUERY, "documents": DOCUMENTS}
    results = client.post("/rerank", body=body, cast_to=dict[str, Any])["results"]
    return [(result["index"], result["relevance_score"]) for result in results]


def score() -> list[tuple[int, float]]:
    body = {"model": RERANKER, "text_1": QUERY, "text_2": DOCUMENTS}
    data = client.post("/score", body=body, cast_to=dict[str, Any])["data"]
    return [(item["index"], item["score"]) for item in data]


calls.documents("embeddings", lambda: embed(DOCUMENTS))
calls.documents("embeddings float", lambda: embed(DOCUMENTS, encoding_format="float"))
calls.documents("embeddings async", lambda: asyncio.run(embed_async()))
calls.query("embeddings query", lambda: embed(QUERY, model=f"{EMBEDDER}:query")[0])
calls.query("embeddings task", lambda: embed(QUERY, extra_body={"task": "retrieval.query"})[0])
if DIMENSIONS:
    calls.documents("embeddings dimensions", lambda: embed(DOCUMENTS, dimensions=DIMENSIONS))
calls.info("models", lambda: [model.id for model in client.models.list()])
calls.scores("rerank", rerank)
calls.scores("score", score)
calls.error("unknown model", lambda: embed(DOCUMENTS, model=UNKNOWN))
calls.error("token ids", lambda: client.embeddings.create(model=EMBEDDER, input=[[1, 2, 3]]))
if calls.REQUEST["key"]:
    calls.error("wrong key", lambda: embed(DOCUMENTS, extra_headers={"Authorization": "Bearer wrong"}))
calls.report()
