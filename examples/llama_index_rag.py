"""The reranker as a node postprocessor of a LlamaIndex query engine. Offline: demo models, a mock LLM."""

import logging

from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.llms import MockLLM

from llama_index_qwen3_rag import Qwen3Rerank

logging.disable(logging.INFO)

TEXTS = [
    "Mercury is the planet nearest to the Sun; a year there lasts 88 days.",
    "Mercury stays liquid down to 39 degrees below zero, which is why thermometers held it.",
    "Freddie Mercury sang with Queen and wrote Bohemian Rhapsody.",
]

index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS], embed_model=MockEmbedding(embed_dim=8))
engine = index.as_query_engine(
    llm=MockLLM(), similarity_top_k=3, node_postprocessors=[Qwen3Rerank(model="demo", top_n=2)]
)
for node in engine.query("How long does the planet take to go around the Sun?").source_nodes:
    print(f"{node.score:.3f}  {node.text}")
