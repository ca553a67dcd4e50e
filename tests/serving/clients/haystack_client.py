"""Haystack: the rankers and embedders of Cohere and Jina, and its embedders for servers like OpenAI's."""

import os

os.environ.update(HAYSTACK_TELEMETRY_ENABLED="False")

from typing import Any

import client_calls as calls
from client_calls import BASE, DOCUMENTS, EMBEDDER, KEY, QUERY, RERANKER, UNKNOWN
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.cohere import CohereDocumentEmbedder, CohereTextEmbedder
from haystack_integrations.components.embedders.jina import JinaDocumentEmbedder, JinaTextEmbedder
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker

key = Secret.from_token(KEY)
documents = [Document(content=text, meta={"index": index}) for index, text in enumerate(DOCUMENTS)]
cohere = {"api_key": key, "api_base_url": BASE}
jina = {"api_key": key, "base_url": f"{BASE}/v1/embeddings"}
openai = {"api_key": key, "api_base_url": f"{BASE}/v1", "max_retries": 0}


def rank(ranker: Any) -> list[tuple[int, float]]:
    return [(document.meta["index"], document.score) for document in ranker.run(QUERY, documents)["documents"]]


def embed(embedder: Any) -> list[list[float]]:
    return [document.embedding for document in embedder.run(documents)["documents"]]


def cohere_ranker(model: str) -> CohereRanker:
    return CohereRanker(model=model, top_k=len(documents), **cohere)


def jina_ranker(model: str, **options: Any) -> JinaRanker:
    return JinaRanker(model=model, api_key=key, base_url=f"{BASE}/v1/rerank", **options)


calls.scores("cohere ranker", lambda: rank(cohere_ranker(RERANKER)))
calls.scores("jina ranker", lambda: rank(jina_ranker(RERANKER)))
calls.scores("jina ranker top_k", lambda: rank(jina_ranker(RERANKER, top_k=len(documents))))
tei = HuggingFaceTEIRanker(url=BASE, top_k=len(documents), token=key)
calls.scores("tei ranker", lambda: rank(tei))
calls.documents("cohere embedder", lambda: embed(CohereDocumentEmbedder(model=EMBEDDER, **cohere)))
calls.documents("jina embedder", lambda: embed(JinaDocumentEmbedder(model=EMBEDDER, task="retrieval.passage", **jina)))
calls.documents("openai embedder", lambda: embed(OpenAIDocumentEmbedder(model=EMBEDDER, **openai)))
calls.query("cohere text embedder", lambda: CohereTextEmbedder(model=EMBEDDER, **cohere).run(QUERY)["embedding"])
calls.query(
    "jina text embedder",
    lambda: JinaTextEmbedder(model=EMBEDDER, task="retrieval.query", **jina).run(QUERY)["embedding"],
)
calls.query(
    "openai text embedder", lambda: OpenAITextEmbedder(model=f"{EMBEDDER}:query", **openai).run(QUERY)["embedding"]
)
calls.error("cohere ranker unknown model", lambda: rank(cohere_ranker(UNKNOWN)))
calls.error("jina ranker unknown model", lambda: rank(jina_ranker(UNKNOWN)))
calls.error("cohere embedder unknown model", lambda: embed(CohereDocumentEmbedder(model=UNKNOWN, **cohere)))
calls.error("jina embedder unknown model", lambda: embed(JinaDocumentEmbedder(model=UNKNOWN, **jina)))
calls.error(
    "openai embedder unknown model",
    lambda: embed(OpenAIDocumentEmbedder(model=UNKNOWN, raise_on_failure=True, **openai)),
)
calls.report()
