"""The langchain-cohere package: CohereRerank and CohereEmbeddings."""

import os

os.environ.update(LANGSMITH_TRACING="false", LANGCHAIN_TRACING_V2="false")

import client_calls as calls
from client_calls import BASE, DOCUMENTS, EMBEDDER, KEY, QUERY, RERANKER, UNKNOWN
from langchain_cohere import CohereEmbeddings, CohereRerank
from langchain_core.documents import Document


def reranker(model: str = RERANKER) -> CohereRerank:
    return CohereRerank(model=model, base_url=BASE, cohere_api_key=KEY, top_n=len(DOCUMENTS))


def embeddings(model: str = EMBEDDER) -> CohereEmbeddings:
    return CohereEmbeddings(model=model, base_url=BASE, cohere_api_key=KEY, max_retries=1)


def compress() -> list[tuple[int, float]]:
    documents = [Document(text, metadata={"index": index}) for index, text in enumerate(DOCUMENTS)]
    compressed = reranker().compress_documents(documents, QUERY)
    return [(document.metadata["index"], document.metadata["relevance_score"]) for document in compressed]


def rerank(model: str = RERANKER, top_n: int | None = None) -> list[tuple[int, float]]:
    results = reranker(model).rerank(DOCUMENTS, QUERY, top_n=top_n)
    return [(result["index"], result["relevance_score"]) for result in results]


calls.scores("compress_documents", compress)
calls.scores("rerank", rerank)
calls.documents("embed_documents", lambda: embeddings().embed_documents(DOCUMENTS))
calls.query("embed_query", lambda: embeddings().embed_query(QUERY))
calls.error("unknown reranker", lambda: rerank(UNKNOWN))
calls.error("unknown embedder", lambda: embeddings(UNKNOWN).embed_documents(DOCUMENTS))
calls.report()
