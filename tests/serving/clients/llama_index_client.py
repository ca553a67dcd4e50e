"""LlamaIndex: the rerankers of TEI, Jina and Cohere, and the embeddings of servers like OpenAI's and of TEI."""

import os

os.environ.update(LLAMA_INDEX_DISABLE_TELEMETRY="1", ANONYMIZED_TELEMETRY="False")

from typing import Any

import client_calls as calls
from client_calls import BASE, DIMENSIONS, DOCUMENTS, EMBEDDER, KEY, QUERY, RERANKER, UNKNOWN
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference as TeiRerank


def rerank(postprocessor: Any) -> list[tuple[int, float]]:
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(index))) for index, text in enumerate(DOCUMENTS)]
    return [(int(node.node_id), node.score) for node in postprocessor.postprocess_nodes(nodes, query_str=QUERY)]


def jina(model: str) -> JinaRerank:
    return JinaRerank(model=model, base_url=f"{BASE}/v1", api_key=KEY, top_n=len(DOCUMENTS))


def cohere(model: str) -> CohereRerank:
    return CohereRerank(model=model, base_url=BASE, api_key=KEY, top_n=len(DOCUMENTS), max_retries=1)


def openai_like(model: str, **options: Any) -> OpenAILikeEmbedding:
    return OpenAILikeEmbedding(model_name=model, api_base=f"{BASE}/v1", api_key=KEY, max_retries=1, **options)


def tei(endpoint: str = "/embed") -> TextEmbeddingsInference:
    return TextEmbeddingsInference(model_name=EMBEDDER, base_url=BASE, auth_token=KEY, endpoint=endpoint)


# the reranker sends its token as it is, and the embeddings put "Bearer" before it
calls.scores("tei rerank", lambda: rerank(TeiRerank(base_url=BASE, auth_token=f"Bearer {KEY}", top_n=len(DOCUMENTS))))
calls.scores("jina rerank", lambda: rerank(jina(RERANKER)))
calls.scores("cohere rerank", lambda: rerank(cohere(RERANKER)))
calls.documents("openai-like embeddings", lambda: openai_like(EMBEDDER).get_text_embedding_batch(DOCUMENTS))
calls.query("openai-like embeddings query", lambda: openai_like(f"{EMBEDDER}:query").get_query_embedding(QUERY))
if DIMENSIONS:
    calls.documents(
        "openai-like embeddings dimensions",
        lambda: openai_like(EMBEDDER, dimensions=DIMENSIONS).get_text_embedding_batch(DOCUMENTS),
    )
calls.documents("tei embeddings", lambda: tei().get_text_embedding_batch(DOCUMENTS))
calls.documents("tei embeddings root", lambda: tei("/").get_text_embedding_batch(DOCUMENTS))
calls.error("jina rerank unknown model", lambda: rerank(jina(UNKNOWN)))
calls.error("cohere rerank unknown model", lambda: rerank(cohere(UNKNOWN)))
calls.error("openai-like unknown model", lambda: openai_like(UNKNOWN).get_text_embedding_batch(DOCUMENTS))
calls.report()
