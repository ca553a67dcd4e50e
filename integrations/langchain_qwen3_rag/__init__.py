"""LangChain components over `qwen3_rag`."""

try:
    from langchain_qwen3_rag.embeddings import Qwen3Embeddings
    from langchain_qwen3_rag.rerank import Qwen3Rerank
    from langchain_qwen3_rag.retriever import Qwen3Retriever
    from langchain_qwen3_rag.vector_store import Qwen3VectorStore
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("langchain_core"):
        raise
    from qwen3_rag.errors import MissingDependencyError

    raise MissingDependencyError(
        "langchain-core", "langchain_qwen3_rag", "pip install 'qwen3-rag[langchain]'"
    ) from error

__all__ = ["Qwen3Embeddings", "Qwen3Rerank", "Qwen3Retriever", "Qwen3VectorStore"]
