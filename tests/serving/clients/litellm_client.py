"""The litellm package: rerank and embedding through each of its providers whose server can be one's own."""

import os

os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_TELEMETRY="False", LITELLM_LOG="ERROR")

from typing import Any

import client_calls as calls
import litellm
from client_calls import BASE, DOCUMENTS, EMBEDDER, KEY, QUERY, RERANKER, UNKNOWN

RERANK_BASES = {
    "cohere": BASE,
    "jina_ai": BASE,
    "hosted_vllm": f"{BASE}/v1",
    "infinity": f"{BASE}/infinity",
    "huggingface": BASE,
}
EMBEDDING_BASES = {
    "openai": f"{BASE}/v1",
    "jina_ai": f"{BASE}/v1",
    "hosted_vllm": f"{BASE}/v1",
    "infinity": f"{BASE}/v1",
    "cohere": f"{BASE}/v2/embed",
    "huggingface": f"{BASE}/embed",
}
QUERIES = {  # how each provider says that a text is a query, where it can
    "openai": {"model": f"openai/{EMBEDDER}:query"},
    "jina_ai": {"model": f"jina_ai/{EMBEDDER}", "task": "retrieval.query"},
    "hosted_vllm": {"model": f"hosted_vllm/{EMBEDDER}:query"},
    "infinity": {"model": f"infinity/{EMBEDDER}:query"},
    "cohere": {"model": f"cohere/{EMBEDDER}", "input_type": "search_query"},
}


def rerank(provider: str, model: str = RERANKER, **options: Any) -> list[tuple[int, float]]:
    response = litellm.rerank(
        model=f"{provider}/{model}",
        query=QUERY,
        documents=DOCUMENTS,
        top_n=len(DOCUMENTS),
        api_base=RERANK_BASES[provider],
        api_key=KEY,
        **options,
    )
    return [(result["index"], result["relevance_score"]) for result in response.results]


def embed(provider: str, texts: list[str], **options: Any) -> list[list[float]]:
    if provider == "huggingface":
        options["input_type"] = "feature-extraction"  # without it, the model's task is asked of the hub
    response = litellm.embedding(
        **{"model": f"{provider}/{EMBEDDER}", **options},
        input=texts,
        api_base=EMBEDDING_BASES[provider],
        api_key=KEY,
        max_retries=0,
    )
    return [item["embedding"] for item in response.data]


for name in RERANK_BASES:
    calls.scores(f"{name} rerank", lambda name=name: rerank(name))
    if name != "huggingface":  # sends no model
        calls.error(f"{name} rerank unknown model", lambda name=name: rerank(name, UNKNOWN))
for name in EMBEDDING_BASES:
    calls.documents(f"{name} embedding", lambda name=name: embed(name, DOCUMENTS))
    if name != "huggingface":
        calls.query(f"{name} embedding query", lambda name=name: embed(name, [QUERY], **QUERIES[name])[0])
        calls.error(
            f"{name} embedding unknown model", lambda name=name: embed(name, DOCUMENTS, model=f"{name}/{UNKNOWN}")
        )
calls.report()
