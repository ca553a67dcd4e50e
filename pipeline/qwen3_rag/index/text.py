"""Full-text search in any script: words are cut here, SQLite's FTS5 ranks them by BM25."""

import re
import sqlite3
import unicodedata
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["TextIndex", "TextIndexProtocol", "query_terms", "segment"]

# Scripts written without blanks between words; their runs are cut into pairs of characters.
UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
WORD = re.compile(rf"[{UNSPACED}]+|(?:(?![{UNSPACED}])[\w\u0300-\u036f\u0590-\u08ff\u0900-\u0dff])+")
IS_UNSPACED = re.compile(f"[{UNSPACED}]")
# Arabic vowel marks and the lengthening stroke: people search without them.
ARABIC_MARKS = re.compile("[\u0640\u064b-\u065f\u0670]")
HUMPS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^\W\dA-Za-z_]+")


def segment(text: str) -> list[str]:
    """Terms under which a text is found: lower-cased words, identifiers whole and in parts, pairs of characters."""
    terms: list[str] = []
    for word in WORD.findall(_normal(text)):
        if IS_UNSPACED.match(word):
            terms += [word[i : i + 2] for i in range(len(word))]
        else:
            terms += _identifier(word)
    return terms


def query_terms(text: str) -> list[str]:
    """FTS5 terms of a query, quoted: nothing in it is read as syntax."""
    terms: dict[str, None] = {}
    for word in WORD.findall(_normal(text)):
        if IS_UNSPACED.match(word):
            # A lone character is the beginning of some pair; within a longer run the pairs say it all.
            pairs = [word[i : i + 2] for i in range(len(word) - 1)]
            terms.update(dict.fromkeys([f'"{pair}"' for pair in pairs] or [f'"{word}"*']))
        else:
            terms.update(dict.fromkeys(f'"{part}"' for part in _identifier(word)))
    return list(terms)


def _normal(text: str) -> str:
    return ARABIC_MARKS.sub("", unicodedata.normalize("NFKC", text))


def _identifier(word: str) -> list[str]:
    whole = word.replace("_", "").lower()
    parts = [part.lower() for part in HUMPS.findall(word)]
    return [term for term in ([whole, *parts] if len(parts) > 1 else [whole]) if term]


class TextIndexProtocol(Protocol):
    """What the retriever needs of a full-text index."""

    def add(self, rows: Iterable[tuple[int, str]]) -> None:
        """Index passages (number, text)."""

    def remove(self, numbers: Iterable[int]) -> None:
        """Forget passages."""

    def search(
        self, query: str, k: int, allowed: Iterable[int] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Numbers and scores of the k best, best first; only `allowed` numbers, if given."""


class TextIndex:
    """BM25 over an FTS5 table in the store's own database, so that it changes in the same commit."""

    # Combining marks belong to the words of many scripts; by default the tokenizer would cut words at them.
    SCHEMA = """CREATE VIRTUAL TABLE terms USING fts5(
        body, tokenize = "unicode61 remove_diacritics 0 categories 'L* N* Co Mn Mc'")"""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def add(self, rows: Iterable[tuple[int, str]]) -> None:
        """Index passages (number, text)."""
        self.connection.executemany(
            "INSERT INTO terms (rowid, body) VALUES (?, ?)", ((n, " ".join(segment(text))) for n, text in rows)
        )

    def remove(self, numbers: Iterable[int]) -> None:
        """Forget passages."""
        self.connection.executemany("DELETE FROM terms WHERE rowid = ?", ((n,) for n in numbers))

    def search(
        self, query: str, k: int, allowed: Iterable[int] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Numbers and BM25 scores (higher is better) of the k best passages with any of the query's terms."""
        terms = query_terms(query)
        found: list[tuple[int, float]] = []
        if terms:
            permitted = None if allowed is None else set(allowed)
            rows = self.connection.execute(
                "SELECT rowid, -rank FROM terms WHERE terms MATCH ? ORDER BY rank", (" OR ".join(terms),)
            )
            for number, score in rows:
                if permitted is None or number in permitted:
                    found.append((number, score))
                    if len(found) == k:
                        break
        return np.array([n for n, _ in found], dtype=np.int64), np.array([s for _, s in found], dtype=np.float32)
