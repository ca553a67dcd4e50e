"""A small embedder and reranker of one's own, as the protocols allow them: no torch, the same results each time."""

import hashlib
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from qwen3_rag.scores import RerankResult

DIMENSIONS = 32


def unit(text: str) -> np.ndarray:
    """The normalised sum of a random vector for each word."""
    words = re.findall(r"\w+", text.lower()) or ["nothing"]
    seeds = (int.from_bytes(hashlib.md5(word.encode("utf8", "replace")).digest()[:8], "little") for word in words)
    row = np.sum([np.random.default_rng(seed).standard_normal(DIMENSIONS) for seed in seeds], axis=0)
    return (row / np.linalg.norm(row)).astype(np.float32)


class WordEmbedder:
    """Embeds by words; `scale` other than 1 is what forgets to normalise."""

    dimensions, longest, takes_instructions = DIMENSIONS, 8192, False

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def encode_query(self, texts: str | Sequence[str], instruction: str | None = None) -> np.ndarray:
        rows = unit(texts) if isinstance(texts, str) else np.stack([unit(text) for text in texts])
        return rows * np.float32(self.scale)

    def encode_document(self, texts: str | Sequence[str], show_progress: bool = False) -> np.ndarray:
        return self.encode_query(texts)

    def spans(self, text: str) -> np.ndarray:
        return np.array([m.span() for m in re.finditer(r"\w+|[^\w\s]", text)], dtype=np.int64).reshape(-1, 2)

    def describe(self) -> dict[str, Any]:
        return {"model": "words"}


class LengthReranker:
    """Prefers short passages, takes `seconds` for each, and counts them."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.pairs = seconds, 0

    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> RerankResult:
        log_odds = np.full(len(documents), np.nan, dtype=np.float32)
        started, stopped = time.monotonic(), None
        for place, document in enumerate(documents):
            if deadline is not None and time.monotonic() > started + deadline:
                stopped = "deadline passed"
                break
            time.sleep(self.seconds)
            log_odds[place] = -len(document) / 100
            self.pairs += 1
        return RerankResult(log_odds, np.zeros(len(documents), dtype=np.int64), 0, stopped)

    def describe(self) -> dict[str, Any]:
        return {"model": "length"}


class KnowingReranker:
    """Knows which document answers which query, and counts the pairs that it scores."""

    def __init__(self, right: bool = True) -> None:
        self.right, self.pairs, self.stop_after = right, 0, 10**9

    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> RerankResult:
        if self.pairs + len(documents) > self.stop_after:
            raise KeyboardInterrupt
        self.pairs += len(documents)
        sign = 1 if self.right else -1
        scores = [sign * (5.0 if f"answer to {query}" in text else -3.0 - len(text) / 1000) for text in documents]
        return RerankResult(np.array(scores, dtype=np.float32), np.zeros(len(scores), dtype=np.int64))

    def describe(self) -> dict[str, Any]:
        return {"model": "knowing", "right": self.right}
