"""Fine-tunes rerankers: lists of judged documents in, a checkpoint and honest figures out."""

from qwen3_rag.training.lists import TrainingList, read_lists
from qwen3_rag.training.mining import mine_lists
from qwen3_rag.training.reranker import TrainingSettings, train_reranker

__all__ = ["TrainingList", "TrainingSettings", "mine_lists", "read_lists", "train_reranker"]
