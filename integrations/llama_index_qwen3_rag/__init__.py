"""LlamaIndex components over `qwen3_rag`."""

try:
    from llama_index_qwen3_rag.rerank import Qwen3Rerank
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("llama_index"):
        raise
    from qwen3_rag.errors import MissingDependencyError

    raise MissingDependencyError(
        "llama-index-core", "llama_index_qwen3_rag", "pip install 'qwen3-rag[llama-index]'"
    ) from error

__all__ = ["Qwen3Rerank"]
