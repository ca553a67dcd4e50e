"""How good a pipeline is on judged queries: `evaluate`, and `qwen3-rag eval` on the command line."""

from qwen3_rag.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
