"""The native runtime: packed batches, a prefix cache for each query, and only the last tokens' results."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.models.checkpoints.formats import (
    EmbedFormat,
    Encoded,
    Inputs,
    RerankFormat,
    matryoshka,
    sliced,
)
from qwen3_rag.models.checkpoints.loading import check_length, reranker_head
from qwen3_rag.models.checkpoints.tokens import Tokens
from qwen3_rag.models.engine.engine import load_engine
from qwen3_rag.models.engine.packing import KeptPrefixes, PackedSequence, Prefix
from qwen3_rag.models.engine.work import Work
from qwen3_rag.models.runtimes.from_ids import IdEmbedder
from qwen3_rag.models.runtimes.protocols import Scored
from qwen3_rag.scores import NEVER, Cancellation, Group

__all__ = ["NativeEmbedder", "NativeReranker"]

Float32 = NDArray[np.float32]


class NativeReranker:
    """Scores candidates with a causal decoder or its one-label classifier form, exactly as the official script."""

    takes_instructions = True

    def __init__(self, folder: Path, *, device: str, dtype: str, max_length: int, options: dict[str, Any]) -> None:
        tokens = Tokens(folder)
        head, ids = reranker_head(folder, tokens)
        self.format, self.tokens, self.max_length = RerankFormat(tokens, max_length), tokens, max_length
        self.engine, rows = load_engine(folder, head, ids, device=device, dtype=dtype, options=options)
        check_length(max_length, self.engine.config)
        self.instructions = KeptPrefixes()
        self.direction = (rows[1] - rows[0] if head == "causal" else rows[0]).cpu().numpy()

    @property
    def runs_on(self) -> dict[str, str]:
        """Device, dtype, attention, and whether the layers are compiled."""
        return self.engine.runs_on

    def score(self, instruction: str, groups: Sequence[Group], cancellation: Cancellation = NEVER) -> Iterator[Scored]:
        """See `RerankRuntime`; a query's candidates share a prefix cache."""
        for first, part in sliced(groups):
            yield from self._score(self.format.encode(instruction, part), first, cancellation)

    def score_ids(self, inputs: Sequence[list[int]], cancellation: Cancellation = NEVER) -> Iterator[Scored]:
        """See `RerankRuntime`; what the inputs have in common at the start is computed once."""
        yield from self._score([self.format.encoded(inputs)], 0, cancellation)

    def _score(self, encoded: Sequence[Encoded], first: int, cancellation: Cancellation) -> Iterator[Scored]:
        sequences = [sequence for group in encoded for sequence in self._sequences(group)]
        truncated = [cut for group in encoded for cut in group.truncated]
        lengths = [length for group in encoded for length in group.lengths]
        for batch, states in self.engine.last_states(sequences, cancellation):
            cut, tokens = sum(truncated[i] for i in batch), sum(lengths[i] for i in batch)
            yield Scored([first + i for i in batch], states @ self.direction, cut, tokens)

    def _sequences(self, group: Encoded) -> list[PackedSequence]:
        parent = self.instructions.get(group.head[: group.constant])
        query = group.head[len(parent) if parent else 0 :]
        if len(group.tails) == 1:  # a prefix cache for a single candidate would only cost
            return [PackedSequence([*query, *group.tails[0]], prefix=parent)]
        prefix = Prefix(query, parent) if query else parent
        return [PackedSequence(ids, prefix=prefix) for ids in group.tails]

    @property
    def work(self) -> Work:
        """Batches run so far."""
        return self.engine.scheduler.work

    def document_budget(self, instruction: str, query: str) -> int:
        """See `RerankRuntime`."""
        return self.format.document_budget(self.format.query(instruction, query))

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets of a text's tokens."""
        return self.tokens.spans(text)

    def warm_up(self) -> None:
        """Compile the layers now, if that is to be done."""
        self.engine.warm_up()


class NativeEmbedder(IdEmbedder):
    """Embeds with a causal decoder; the vector is the last state of a final `<|endoftext|>`."""

    def __init__(
        self, folder: Path, *, device: str, dtype: str, max_length: int, dimensions: int | None, options: dict[str, Any]
    ) -> None:
        self.tokens, self.max_length = Tokens(folder), max_length
        self.format = EmbedFormat(self.tokens, max_length)
        self.engine, _ = load_engine(folder, "none", (), device=device, dtype=dtype, options=options)
        check_length(max_length, self.engine.config)
        self.instructions = KeptPrefixes()
        self.dimensions = matryoshka(int(self.engine.config.hidden_size), dimensions)

    @property
    def runs_on(self) -> dict[str, str]:
        """Device, dtype, attention, and whether the layers are compiled."""
        return self.engine.runs_on

    @property
    def work(self) -> Work:
        """Batches run so far."""
        return self.engine.scheduler.work

    def _last_states(self, inputs: Inputs, cancellation: Cancellation) -> Iterator[tuple[Sequence[int], Float32]]:
        prefix, length = self.instructions.get(inputs.start), len(inputs.start)
        sequences = [
            PackedSequence(ids[length:], prefix=prefix)
            if prefix is not None and tuple(ids[:length]) == inputs.start
            else PackedSequence(ids)
            for ids in inputs.ids
        ]
        yield from self.engine.last_states(sequences, cancellation)

    def warm_up(self) -> None:
        """Compile the layers now, if that is to be done."""
        self.engine.warm_up()
