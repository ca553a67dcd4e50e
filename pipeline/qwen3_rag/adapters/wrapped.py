"""An embedder of a framework as this package's protocol has it."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError

__all__ = ["Vectors", "WrappedEmbedder", "unit_rows"]

Vectors = Sequence[Sequence[float]] | NDArray[Any]
# Chinese, Japanese and Korean are written without blanks, so there a character counts as a word.
WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\w\s]")


class WrappedEmbedder:
    """Any embedder that has a function for queries and one for documents.

    Args:
        name: What a store remembers it by; its vectors of a fixed text are compared too.
        queries: Vectors of queries.
        documents: Vectors of documents.
    """

    longest = 8192
    takes_instructions = False

    def __init__(
        self, name: str, queries: Callable[[list[str]], Vectors], documents: Callable[[list[str]], Vectors]
    ) -> None:
        self.name, self.queries, self.documents = name, queries, documents
        self._dimensions: int | None = None

    @property
    def dimensions(self) -> int:
        """Number of values in a vector, found by embedding a word."""
        if self._dimensions is None:
            self._dimensions = len(self.documents(["word"])[0])
        return self._dimensions

    def encode_query(self, texts: str | Sequence[str], instruction: str | None = None) -> NDArray[np.float32]:
        """Unit vectors of queries; it takes no instruction."""
        return self._encoded(self.queries, texts)

    def encode_document(self, texts: str | Sequence[str], show_progress: bool = False) -> NDArray[np.float32]:
        """Unit vectors of documents."""
        return self._encoded(self.documents, texts)

    def _encoded(self, embed: Callable[[list[str]], Vectors], texts: str | Sequence[str]) -> NDArray[np.float32]:
        many = [texts] if isinstance(texts, str) else list(texts)
        rows = unit_rows(embed(many)) if many else np.empty((0, self.dimensions), np.float32)
        return rows.reshape(-1) if isinstance(texts, str) else rows

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of words, because the framework does not tell its tokens."""
        return np.array([word.span() for word in WORDS.finditer(text)], dtype=np.int64).reshape(-1, 2)

    def describe(self) -> dict[str, Any]:
        """The name; the embedder has to be passed again to open the store."""
        return {"model": self.name}


def unit_rows(vectors: Vectors) -> NDArray[np.float32]:
    """Vectors (n, dimensions) scaled to length 1.

    Raises:
        InvalidArgumentError: One is zero or not finite.
    """
    rows = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        place = int(np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))[0])
        raise InvalidArgumentError(
            f"vector {place} has the length {float(norms.ravel()[place])}; expected finite values, not all zero"
        )
    scaled: NDArray[np.float32] = rows / norms
    return scaled
