"""A search from query to results: embed, retrieve candidates, rerank, arrange."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.calibration import Calibration, calibrations_of
from qwen3_rag.descriptions import DESCRIPTIONS, context_of
from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.index.retriever import Candidate, Retriever
from qwen3_rag.index.store import Store
from qwen3_rag.ingest.indexer import not_unit
from qwen3_rag.models.binding import binding_of, binding_text
from qwen3_rag.models.cascade import adaptive
from qwen3_rag.models.protocols import EmbedderProtocol, RerankerProtocol, named_instructions
from qwen3_rag.prompts import resolve_instruction
from qwen3_rag.ranking import Retrieved, SearchOptions, arrange, passage_id
from qwen3_rag.records import Hit, Results
from qwen3_rag.scores import RerankResult

__all__ = ["CALIBRATIONS", "Searcher"]

CALIBRATIONS = "calibrations"  # the store's key
TOGETHER = 256  # queries embedded and retrieved at once, to bound memory
CALLERS = 16  # queries reranked at once; the reranker merges their candidates into common batches
Float32 = NDArray[np.float32]


class Searcher:
    """Answers queries from a store.

    Args:
        store: The store.
        retriever: Its first stage.
        embedder: The embedder that made the store's vectors.
        reranker: The second stage, or None for the first stage only.
    """

    def __init__(
        self, store: Store, retriever: Retriever, embedder: EmbedderProtocol, reranker: RerankerProtocol | None
    ) -> None:
        self.store, self.retriever, self.embedder, self.reranker = store, retriever, embedder, reranker

    def search(
        self, queries: Sequence[str], options: SearchOptions, started: float, cancel: threading.Event | None
    ) -> list[Results]:
        """Results of each query; timings and deadline count from `started`, a value of `time.monotonic()`."""
        results: list[Results] = []
        begun = started
        for start in range(0, len(queries), TOGETHER):
            results += self._search(queries[start : start + TOGETHER], options, started, begun, cancel)
            begun = time.monotonic()
        return results

    def _search(
        self,
        queries: Sequence[str],
        options: SearchOptions,
        started: float,
        begun: float,
        cancel: threading.Event | None,
    ) -> list[Results]:
        """Results of a group of queries, whose first stage of `timings` counts from `begun`."""
        times = [begun]
        for_embedder, for_reranker = self._instructions(options.instruction)
        vectors = None if options.mode == "lexical" else self._vectors(queries, for_embedder)
        times.append(time.monotonic())
        candidates = self._candidates(queries, vectors, options)
        times.append(time.monotonic())
        deadline = None if options.deadline is None else started + options.deadline
        scores: list[RerankResult | None] = [None] * len(queries)
        calibration, uncalibrated = None, None
        if options.rerank and self.reranker is not None:
            scores = self._rerank(self.reranker, queries, candidates, for_reranker, options, deadline, cancel)
            calibration, uncalibrated = self._calibration(self.reranker, for_reranker, options)
        arranged = [self._arranged(*each, options, calibration) for each in zip(candidates, scores, strict=True)]
        times.append(time.monotonic())
        stages = dict(zip(("embed", "retrieve", "rerank"), np.diff(times).tolist(), strict=True))
        return [
            Results(
                hits,
                mode=options.mode,
                timings=stages | {"total": times[-1] - started},
                degraded=degraded,
                truncated=result.truncated if result else 0,
                reread=int(result.read.sum()) if result else 0,
                answered=_answered(hits, options, calibration),
                uncalibrated=uncalibrated,
            )
            for (hits, degraded), result in zip(arranged, scores, strict=True)
        ]

    def retrieved(self, queries: Sequence[str], options: SearchOptions) -> list[list[Retrieved]]:
        """First-stage candidates of each query, best first."""
        for_embedder, _ = self._instructions(options.instruction)
        vectors = None if options.mode == "lexical" else self._vectors(queries, for_embedder)
        return self._candidates(queries, vectors, options)

    def scored(
        self, queries: Sequence[str], options: SearchOptions
    ) -> tuple[list[list[Retrieved]], list[RerankResult | None], dict[str, Any]]:
        """Candidates and scores of each query, as a search has them before it arranges them; and their binding.

        Raises:
            InvalidArgumentError: There is no reranker.
        """
        if self.reranker is None:
            raise InvalidArgumentError("there is no reranker, so there are no scores; expected one")
        _, for_reranker = self._instructions(options.instruction)
        candidates = self.retrieved(queries, options)
        scores = self._rerank(self.reranker, queries, candidates, for_reranker, options, None, None)
        return candidates, scores, binding_of(self.reranker, for_reranker)

    def _calibration(
        self, reranker: RerankerProtocol, instruction: str | None, options: SearchOptions
    ) -> tuple[Calibration | None, str | None]:
        """The store's calibration of this reranker with this instruction, or why there is none."""
        kept = calibrations_of(self.store.meta(CALIBRATIONS))
        if not kept:
            wanted = options.min_probability is not None
            return None, "the store has no calibration, so min_probability was not applied" if wanted else None
        binding = binding_of(reranker, instruction)
        for calibration in kept:
            if calibration.binding == binding:
                return calibration, None
        others = "; ".join(binding_text(dict(calibration.binding)) for calibration in kept)
        return None, f"the store is calibrated for {others}; this search used {binding_text(binding)}: no probabilities"

    def _instructions(self, instruction: str | None) -> tuple[str | None, str | None]:
        """An instruction's text for embedder and reranker: each one's own names first, then the other's."""
        if instruction is None:
            return None, None
        first, second = (named_instructions(m.describe()) if m else {} for m in (self.embedder, self.reranker))
        return resolve_instruction(instruction, second | first), resolve_instruction(instruction, first | second)

    def _vectors(self, queries: Sequence[str], instruction: str | None) -> Float32:
        """Unit vectors (n, dimensions) of the queries."""
        takes = self.embedder.takes_instructions
        vectors: Float32 = np.asarray(self.embedder.encode_query(list(queries), instruction if takes else None))
        if vectors.shape != (expected := (len(queries), self.retriever.dimensions)):
            raise ModelError(f"the embedder returned query vectors of shape {vectors.shape}; expected {expected}")
        if (wrong := not_unit(vectors)) is not None:
            raise ModelError(f"the embedder returned a query vector of norm {wrong[1]:.4g}; expected 1")
        return vectors

    def _candidates(
        self, queries: Sequence[str], vectors: Float32 | None, options: SearchOptions
    ) -> list[list[Retrieved]]:
        """First-stage candidates of each query, best first."""
        hits = self.retriever.search_many(queries, vectors, options.depth, options.mode, options.filter)
        if not options.open_ended:
            return [_ranked(each) for each in hits]
        rows = [None] * len(queries) if vectors is None else list(vectors)
        return [self._further(*each, options) for each in zip(queries, rows, hits, strict=True)]

    def _further(
        self, query: str, vector: Float32 | None, hits: list[Candidate], options: SearchOptions
    ) -> list[Retrieved]:
        """The candidates, and the best passages of further documents if they are of fewer than `top_k`."""
        reach = options.depth
        while len(hits) == reach and len({passage.document_id for passage, _ in hits}) < options.top_k:
            reach *= 2
            hits = self.retriever.search(query, vector, reach, options.mode, options.filter)
        candidates = _ranked(hits)
        chosen, seen = candidates[: options.depth], {c.passage.document_id for c in candidates[: options.depth]}
        for candidate in candidates[options.depth :]:
            if len(seen) < options.top_k and candidate.passage.document_id not in seen:
                seen.add(candidate.passage.document_id)
                chosen.append(candidate)
        return chosen

    def _rerank(
        self,
        reranker: RerankerProtocol,
        queries: Sequence[str],
        candidates: list[list[Retrieved]],
        instruction: str | None,
        options: SearchOptions,
        deadline: float | None,
        cancel: threading.Event | None,
    ) -> list[RerankResult | None]:
        """The reranker's scores of each query's candidates; several queries are reranked at once."""
        stop = cancel or threading.Event()

        def read(query: str, candidates: list[Retrieved]) -> RerankResult | None:
            if not candidates:
                return None
            texts = [candidate.passage.searched(self.store.titles) for candidate in candidates]
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            reader = reranker
            if options.candidates == "auto":
                reader = adaptive(
                    reranker, options.top_k, dict(zip(texts, map(options.group, candidates), strict=True))
                )
            return reader.read(query, texts, instruction, left, stop if len(queries) > 1 else cancel)

        if len(queries) == 1:
            return [read(queries[0], candidates[0])]
        with ThreadPoolExecutor(min(CALLERS, len(queries)), "qwen3-rag-rerank") as pool:
            futures = [pool.submit(read, *each) for each in zip(queries, candidates, strict=True)]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                if cancel is None:
                    stop.set()
                raise

    def _arranged(
        self,
        candidates: list[Retrieved],
        scores: RerankResult | None,
        options: SearchOptions,
        calibration: Calibration | None,
    ) -> tuple[list[Hit], str | None]:
        """Hits, and the reason if some candidates were not reranked."""
        hits, degraded = arrange(candidates, scores, options, calibration)
        if descriptions := self.store.meta(DESCRIPTIONS):
            hits = [replace(hit, context=context_of(descriptions, hit.source, hit.document_id)) for hit in hits]
        if options.neighbours:
            passages = {passage_id(c.passage.document_id, c.passage.ordinal): c.passage for c in candidates}
            for place, hit in enumerate(hits):
                start, end, text = self.store.widened(passages[hit.id], options.neighbours)
                hits[place] = replace(hit, text=text, start=start, end=end)
        return hits, degraded


def _answered(hits: Sequence[Hit], options: SearchOptions, calibration: Calibration | None) -> bool | None:
    """Whether a hit is probable enough to answer the query; None without a calibration or a threshold."""
    if calibration is None:
        return None
    least = calibration.answer_probability if options.min_probability is None else options.min_probability
    return None if least is None else any((hit.probability or 0) >= least for hit in hits)


def _ranked(hits: Sequence[Candidate]) -> list[Retrieved]:
    return [Retrieved(passage, score, rank) for rank, (passage, score) in enumerate(hits, start=1)]
