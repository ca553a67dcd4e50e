"""LlamaIndex components over `qwen3_rag`."""

try:
    from llama_index_qwen3_rag.embedding import Qwen3Embedding
    from llama_index_qwen3_rag.rerank import Qwen3Rerank
    from llama_index_qwen3_rag.retriever import Qwen3Retriever
    from llama_index_qwen3_rag.vector_store import Qwen3VectorStore
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("llama_index"):
        raise
    from qwen3_rag.errors import MissingDependencyError

    raise MissingDependencyError(
        "llama-index-core", "llama_index_qwen3_rag", "pip install 'qwen3-rag[llama-index]'"
    ) from error

__all__ = ["Qwen3Embedding", "Qwen3Rerank", "Qwen3Retriever", "Qwen3VectorStore"]
