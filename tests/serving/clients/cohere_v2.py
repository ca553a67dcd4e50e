"""The cohere package, version 7: ClientV2 and its asynchronous twin."""

import asyncio
from typing import Any

import client_calls as calls
from client_calls import BASE, DIMENSIONS, DOCUMENTS, EMBEDDER, KEY, QUERY, RERANKER, UNKNOWN
from cohere import AsyncClientV2, ClientV2

client = ClientV2(api_key=KEY, base_url=BASE, max_retries=0)


def rerank(model: str = RERANKER, **options: Any) -> list[tuple[int, float]]:
    response = client.rerank(model=model, query=QUERY, documents=DOCUMENTS, **options)
    return [(result.index, result.relevance_score) for result in response.results]


async def rerank_async() -> list[tuple[int, float]]:
    asynchronous = AsyncClientV2(api_key=KEY, base_url=BASE, max_retries=0)
    response = await asynchronous.rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS)
    return [(result.index, result.relevance_score) for result in response.results]


def embed(texts: list[str], input_type: str, **options: Any) -> list[list[float]]:
    response = client.embed(
        **{"model": EMBEDDER, "texts": texts, "input_type": input_type, "embedding_types": ["float"], **options}
    )
    return response.embeddings.float_


calls.scores("rerank", rerank)
calls.scores("rerank top_n", lambda: rerank(top_n=len(DOCUMENTS), max_tokens_per_doc=4096))
calls.scores("rerank async", lambda: asyncio.run(rerank_async()))
calls.documents("embed", lambda: embed(DOCUMENTS, "search_document"))
calls.query("embed query", lambda: embed([QUERY], "search_query")[0])
if DIMENSIONS:
    calls.documents(
        "embed dimensions", lambda: embed(DOCUMENTS, "search_document", output_dimension=DIMENSIONS, truncate="END")
    )
calls.error("unknown reranker", lambda: rerank(UNKNOWN))
calls.error("unknown embedder", lambda: embed(DOCUMENTS, "search_document", model=UNKNOWN))
calls.report()
