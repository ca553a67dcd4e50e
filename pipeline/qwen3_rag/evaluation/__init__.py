"""Measures a pipeline on judged queries, and calibrates its scores on them."""

from qwen3_rag.evaluation.calibrate import calibrate
from qwen3_rag.evaluation.evaluate import evaluate

__all__ = ["calibrate", "evaluate"]
