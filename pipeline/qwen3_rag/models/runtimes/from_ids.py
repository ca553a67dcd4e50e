"""What runtimes that take token ids share: an embedder from the last states of its inputs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import StoppedError
from qwen3_rag.models.checkpoints.formats import EmbedFormat, Inputs, unit_rows
from qwen3_rag.models.checkpoints.tokens import Tokens
from qwen3_rag.models.runtimes.protocols import Progress
from qwen3_rag.scores import NEVER, Cancellation, EmbedResult

__all__ = ["IdEmbedder"]

Float32 = NDArray[np.float32]


class IdEmbedder(ABC):
    """Embeds with a causal decoder; the vector is the last state of a final `<|endoftext|>`."""

    takes_instructions = True
    format: EmbedFormat
    tokens: Tokens
    dimensions: int

    @abstractmethod
    def _last_states(self, inputs: Inputs, cancellation: Cancellation) -> Iterator[tuple[Sequence[int], Float32]]:
        """Indices of some inputs and their last states (n, hidden), until all are done or `cancellation` applies."""

    def embed_queries(self, texts: Sequence[str], instruction: str, cancellation: Cancellation = NEVER) -> EmbedResult:
        """Unit rows of queries; a query longer than `max_length` is an error."""
        return self._embed(self.format.queries(texts, instruction), None, cancellation)

    def embed_documents(
        self, texts: Sequence[str], progress: Progress | None = None, cancellation: Cancellation = NEVER
    ) -> EmbedResult:
        """Unit rows of documents, each truncated to `max_length` tokens."""
        return self._embed(self.format.documents(texts), progress, cancellation)

    def embed_ids(self, inputs: Sequence[list[int]], cancellation: Cancellation = NEVER) -> EmbedResult:
        """Unit rows of complete inputs."""
        return self._embed(self.format.checked(inputs), None, cancellation)

    def _embed(self, inputs: Inputs, progress: Progress | None, cancellation: Cancellation) -> EmbedResult:
        rows, missing = np.empty((len(inputs.ids), self.dimensions), dtype=np.float32), len(inputs.ids)
        for part, states in self._last_states(inputs, cancellation):
            rows[list(part)] = unit_rows(states, self.dimensions)
            missing -= len(part)
            if progress:
                progress(len(part))
        if missing:
            raise StoppedError(f"{cancellation.stop_reason or 'stopped'}: {missing} of {len(rows)} texts not embedded")
        return EmbedResult(rows, sum(map(len, inputs.ids)), inputs.truncated)

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        return self.tokens.spans(text)
