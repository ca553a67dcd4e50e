"""What the pipeline, the index and the adapters need from models; your own classes may take part by having it."""

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.scores import RerankResult

__all__ = ["EmbedderProtocol", "RerankerProtocol", "check_model", "named_instructions"]

Float32 = NDArray[np.float32]


class EmbedderProtocol(Protocol):
    """Turns texts into unit vectors. Called from several threads at once."""

    @property
    def dimensions(self) -> int:
        """Number of values in a vector."""

    @property
    def longest(self) -> int:
        """Most tokens of a document; longer documents are truncated."""

    @property
    def takes_instructions(self) -> bool:
        """Whether queries may come with an instruction."""

    def encode_query(self, texts: str | Sequence[str], instruction: str | None = None) -> Float32:
        """Unit vectors of queries: (dimensions,) of one, (n, dimensions) of a list."""

    def encode_document(self, texts: str | Sequence[str], show_progress: bool = False) -> Float32:
        """Unit vectors of documents: (dimensions,) of one, (n, dimensions) of a list."""

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of a text's tokens."""

    def describe(self) -> dict[str, Any]:
        """Arguments that recreate this embedder, as JSON; saved in the store."""


class RerankerProtocol(Protocol):
    """Scores candidates. Called from several threads at once."""

    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> RerankResult:
        """Log-odds of the documents, scored in the given order.

        Args:
            query: The query.
            documents: Candidates, the most promising first.
            instruction: A sentence, or None for the reranker's own.
            deadline: Seconds from now after which no further documents are scored.
            cancel: Once set, from any thread, no further documents are scored.
        """

    def describe(self) -> dict[str, Any]:
        """Arguments that recreate this reranker, as JSON; saved in the store."""


def check_model(model: object, protocol: type, name: str) -> None:
    """Check that an object has everything a protocol asks for, without using (and so loading) the model.

    Raises:
        InvalidArgumentError: Something is missing; the message lists it.
    """
    required = [attribute for attribute in vars(protocol) if not attribute.startswith("_")]
    instance = getattr(model, "__dict__", {})
    missing = [attribute for attribute in required if attribute not in instance and not hasattr(type(model), attribute)]
    if missing:
        raise InvalidArgumentError(
            f"{name} is {model!r}, without {', '.join(missing)}; expected a model's name, or an object with "
            f"{', '.join(required)}"
        )


def named_instructions(described: dict[str, Any]) -> dict[str, str]:
    """The named instructions of a described model; of a cascade, those of all stages, an earlier stage's first."""
    named: dict[str, str] = {}
    for stage, _ in reversed(described.get("stages", [])):
        named |= named_instructions(stage)
    return named | (described.get("instructions") or {})
