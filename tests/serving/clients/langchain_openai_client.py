"""The langchain-openai package: OpenAIEmbeddings, sending text, and by its default sending token ids."""

import os

os.environ.update(LANGSMITH_TRACING="false", LANGCHAIN_TRACING_V2="false")

from typing import Any

import client_calls as calls
import tiktoken.registry
from client_calls import BASE, DIMENSIONS, DOCUMENTS, EMBEDDER, KEY, QUERY, UNKNOWN
from langchain_openai import OpenAIEmbeddings

# The default encodes the texts with OpenAI's vocabulary, which tiktoken downloads. Byte by byte is as good an example.
tiktoken.registry.ENCODINGS["cl100k_base"] = tiktoken.Encoding(
    "cl100k_base", pat_str="(?s:.)", mergeable_ranks={bytes([byte]): byte for byte in range(256)}, special_tokens={}
)


def embeddings(model: str = EMBEDDER, **options: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(model=model, base_url=f"{BASE}/v1", api_key=KEY, max_retries=0, **options)


def text_embeddings(model: str = EMBEDDER, **options: Any) -> OpenAIEmbeddings:
    return embeddings(model, check_embedding_ctx_length=False, **options)


calls.documents("embed_documents", lambda: text_embeddings().embed_documents(DOCUMENTS))
calls.query("embed_query", lambda: text_embeddings(f"{EMBEDDER}:query").embed_query(QUERY))
if DIMENSIONS:
    calls.documents(
        "embed_documents dimensions", lambda: text_embeddings(dimensions=DIMENSIONS).embed_documents(DOCUMENTS)
    )
calls.error("default", lambda: embeddings().embed_documents(DOCUMENTS))
calls.error("default query", lambda: embeddings().embed_query(QUERY))
calls.error("unknown model", lambda: text_embeddings(UNKNOWN).embed_documents(DOCUMENTS))
calls.report()
