"""The cohere package, version 5: the Client of its version 1 routes."""

from typing import Any

import client_calls as calls
from client_calls import BASE, DOCUMENTS, EMBEDDER, KEY, QUERY, RERANKER, UNKNOWN
from cohere import Client

client = Client(api_key=KEY, base_url=BASE)


def rerank(model: str = RERANKER, **options: Any) -> list[tuple[int, float]]:
    response = client.rerank(**{"model": model, "query": QUERY, "documents": DOCUMENTS, **options})
    return [(result.index, result.relevance_score) for result in response.results]


def rerank_with_documents() -> list[tuple[int, float]]:
    response = client.rerank(
        model=RERANKER, query=QUERY, documents=[{"text": text} for text in DOCUMENTS], return_documents=True
    )
    assert all(result.document.text == DOCUMENTS[result.index] for result in response.results)
    return [(result.index, result.relevance_score) for result in response.results]


def embed(texts: list[str], input_type: str, model: str = EMBEDDER) -> list[list[float]]:
    return client.embed(model=model, texts=texts, input_type=input_type).embeddings


def embed_by_type(texts: list[str], input_type: str) -> list[list[float]]:
    response = client.embed(model=EMBEDDER, texts=texts, input_type=input_type, embedding_types=["float"])
    return response.embeddings.float_


calls.scores("rerank", lambda: rerank(top_n=len(DOCUMENTS)))
calls.scores("rerank dictionaries", rerank_with_documents)
calls.documents("embed", lambda: embed(DOCUMENTS, "search_document"))
calls.query("embed query", lambda: embed([QUERY], "search_query")[0])
calls.documents("embed by type", lambda: embed_by_type(DOCUMENTS, "search_document"))
calls.query("embed by type query", lambda: embed_by_type([QUERY], "search_query")[0])
calls.error("unknown reranker", lambda: rerank(UNKNOWN))
calls.error("unknown embedder", lambda: embed(DOCUMENTS, "search_document", UNKNOWN))
calls.report()
