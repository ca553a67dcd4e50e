"""A reranker that scores each pair once: its scores are kept in a file, for sweeps and interrupted runs."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwen3_rag.models.protocols import RerankerProtocol
from qwen3_rag.scores import RerankResult

__all__ = ["RememberingReranker"]


class RememberingReranker:
    """Scores pairs by a reranker, and remembers them by model, revision, instruction and texts.

    Args:
        reranker: Scores the pairs that are new.
        path: SQLite file of the scores, created if it does not exist.
    """

    def __init__(self, reranker: RerankerProtocol, path: Path) -> None:
        self.reranker = reranker
        self.new = 0  # pairs scored by the model, not remembered
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS scores (pair BLOB PRIMARY KEY, log_odds REAL) WITHOUT ROWID")

    def describe(self) -> dict[str, Any]:
        """The reranker's description."""
        return self.reranker.describe()

    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> RerankResult:
        """See `RerankerProtocol`; pairs that have a score are not scored again."""
        keys = self._keys(query, documents, instruction)
        scores = self._remembered(keys)
        new = [
            (key, document) for key, document in dict(zip(keys, documents, strict=True)).items() if key not in scores
        ]
        truncated, stopped = 0, None
        if new:
            result = self.reranker.read(query, [document for _, document in new], instruction, deadline, cancel)
            truncated, stopped = result.truncated, result.stopped
            fresh = {
                key: float(value) for (key, _), value in zip(new, result.log_odds, strict=True) if not np.isnan(value)
            }
            with self._lock:
                self.new += len(fresh)
                self._database.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", list(fresh.items()))
            scores |= fresh
        log_odds = np.array([scores.get(key, np.nan) for key in keys], dtype=np.float32)
        return RerankResult(log_odds, np.zeros(len(keys), dtype=np.int64), truncated, stopped)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _remembered(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        with self._lock:
            rows = (
                self._database.execute("SELECT log_odds FROM scores WHERE pair = ?", (key,)).fetchone() for key in keys
            )
            return {key: row[0] for key, row in zip(keys, rows, strict=True) if row is not None}

    def _keys(self, query: str, documents: Sequence[str], instruction: str | None) -> list[bytes]:
        described = {name: value for name, value in self.describe().items() if name != "device"}
        context = json.dumps([described, instruction, query], sort_keys=True).encode()
        return [hashlib.blake2b(context + b"\0" + text.encode(), digest_size=16).digest() for text in documents]
