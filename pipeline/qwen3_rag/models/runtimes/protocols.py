"""What a runtime does for `Reranker` and `Embedder`."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.models.checkpoints.tokens import Tokens
from qwen3_rag.models.engine.work import Work
from qwen3_rag.scores import NEVER, Cancellation, EmbedResult, Group

__all__ = ["EmbeddingRuntime", "Loaded", "Progress", "RerankRuntime", "Scored"]

Float32 = NDArray[np.float32]
Progress = Callable[[int], None]


class Loaded(Protocol):
    """A loaded model."""

    @property
    def runs_on(self) -> dict[str, str]:
        """Device, dtype, attention and similar facts, as text."""

    @property
    def work(self) -> Work | None:
        """Batches run so far; None if the runtime does not batch calls itself."""

    @property
    def tokens(self) -> Tokens | None:
        """The tokenizer, if the runtime takes token ids in place of texts."""

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of a text's tokens."""

    def warm_up(self) -> None:
        """Do what would otherwise make a later call wait."""


class Scored(NamedTuple):
    """Some of the documents of a call, scored.

    Attributes:
        indices: Their positions, counting the documents of all groups one after the other.
        log_odds: float32 (n,), logit(yes) − logit(no) of each.
        truncated: How many of them were truncated.
        tokens: Number of tokens of their inputs.
    """

    indices: Sequence[int]
    log_odds: Float32
    truncated: int = 0
    tokens: int = 0


class RerankRuntime(Loaded, Protocol):
    """Scores groups of a query and its documents."""

    @property
    def max_length(self) -> int:
        """Most tokens of an input."""

    @property
    def takes_instructions(self) -> bool:
        """Whether the model reads an instruction."""

    def score(self, instruction: str, groups: Sequence[Group], cancellation: Cancellation = NEVER) -> Iterator[Scored]:
        """Yield the documents' scores batch by batch, in any order, until all are scored or `cancellation` applies.

        Args:
            instruction: The instruction's text.
            groups: Each query once; no document occurs twice in a group.
            cancellation: Once it applies, no further batch starts.
        """

    def score_ids(self, inputs: Sequence[list[int]], cancellation: Cancellation = NEVER) -> Iterator[Scored]:
        """Yield the scores of complete inputs; only if `tokens` is not None."""

    def document_budget(self, instruction: str, query: str) -> int:
        """Number of tokens left for a document after the template, the instruction and the query."""


class EmbeddingRuntime(Loaded, Protocol):
    """Turns texts into unit vectors. Each call raises `StoppedError` if `cancellation` applies before it is done."""

    dimensions: int
    max_length: int
    takes_instructions: bool

    def embed_queries(self, texts: Sequence[str], instruction: str, cancellation: Cancellation = NEVER) -> EmbedResult:
        """Unit rows (n, dimensions)."""

    def embed_documents(
        self, texts: Sequence[str], progress: Progress | None = None, cancellation: Cancellation = NEVER
    ) -> EmbedResult:
        """Unit rows (n, dimensions)."""

    def embed_ids(self, inputs: Sequence[list[int]], cancellation: Cancellation = NEVER) -> EmbedResult:
        """Unit rows of complete inputs; only if `tokens` is not None."""
