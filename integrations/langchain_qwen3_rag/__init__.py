"""LangChain components over `qwen3_rag`."""

try:
    from langchain_qwen3_rag.rerank import Qwen3Rerank
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("langchain_core"):
        raise
    from qwen3_rag.errors import MissingDependencyError

    raise MissingDependencyError(
        "langchain-core", "langchain_qwen3_rag", "pip install 'qwen3-rag[langchain]'"
    ) from error

__all__ = ["Qwen3Rerank"]
