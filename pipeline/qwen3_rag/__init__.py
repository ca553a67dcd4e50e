"""Two-stage retrieval with the Qwen3 models: embed, fetch the nearest hundred, rerank by yes or no, return the best.

from qwen3_rag import Document, Pipeline

with Pipeline.create("store", embedder="0.6b", reranker="0.6b") as pipeline:
    pipeline.add([Document("The capital of China is Beijing.")])
    print(pipeline.search("What is the capital of China?")[0].text)
"""

from qwen3_rag.errors import (
    EmbedderMismatchError,
    FilterError,
    IndexCorruptedError,
    IngestError,
    InvalidArgumentError,
    JudgementError,
    MissingDependencyError,
    ModelError,
    Qwen3RagError,
    StoppedError,
    StoreError,
    StoreExistsError,
    StoreLockedError,
    StoreMovedError,
    StoreNotFoundError,
    StoreReadOnlyError,
    StoreVersionError,
    TrainingError,
    UnknownNameError,
    UntrustedStoreError,
)
from qwen3_rag.models.cascade import Cascade
from qwen3_rag.models.embedder import Embedder
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.records import Document, Hit, IndexReport, Results
from qwen3_rag.scores import Ranked, RerankResult

__all__ = [
    "Cascade",
    "Document",
    "Embedder",
    "EmbedderMismatchError",
    "FilterError",
    "Hit",
    "IndexCorruptedError",
    "IndexReport",
    "IngestError",
    "InvalidArgumentError",
    "JudgementError",
    "MissingDependencyError",
    "ModelError",
    "Pipeline",
    "Qwen3RagError",
    "Ranked",
    "RerankResult",
    "Reranker",
    "Results",
    "StoppedError",
    "StoreError",
    "StoreExistsError",
    "StoreLockedError",
    "StoreMovedError",
    "StoreNotFoundError",
    "StoreReadOnlyError",
    "StoreVersionError",
    "TrainingError",
    "UnknownNameError",
    "UntrustedStoreError",
]
