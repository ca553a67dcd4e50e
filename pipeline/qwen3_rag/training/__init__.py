"""Fine-tunes rerankers and embedders: lists of judged documents in, a checkpoint and honest figures out."""

from qwen3_rag.training.embedder import train_embedder
from qwen3_rag.training.lists import TrainingList, read_lists
from qwen3_rag.training.mining import mine_lists
from qwen3_rag.training.reranker import train_reranker
from qwen3_rag.training.settings import EmbedderSettings, TrainingSettings

__all__ = [
    "EmbedderSettings",
    "TrainingList",
    "TrainingSettings",
    "mine_lists",
    "read_lists",
    "train_embedder",
    "train_reranker",
]
