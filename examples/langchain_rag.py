"""The reranker in LangChain's ContextualCompressionRetriever. Offline: demo models, no LLM."""

import logging

from langchain_classic.retrievers.contextual_compression import ContextualCompressionRetriever
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from langchain_qwen3_rag import Qwen3Rerank

logging.disable(logging.INFO)

TEXTS = {
    "stack": "def pop(stack): return stack.pop() if stack else None",
    "chimney": "A chimney stack carries smoke above the roof, where the wind takes it away.",
    "queue": "from collections import deque; first = deque([1, 2]).popleft()",
}


class Shelf(BaseRetriever):
    """Any retriever will do; this one returns everything it has."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [Document(text, id=name) for name, text in TEXTS.items()]


retriever = ContextualCompressionRetriever(base_compressor=Qwen3Rerank(model="demo", top_n=2), base_retriever=Shelf())
for document in retriever.invoke("take the first item from a queue in Python"):
    print(f"{document.metadata['relevance_score']:.3f}  {document.id}: {document.page_content}")
