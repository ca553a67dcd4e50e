"""Tokenization for full-text search in any script: the terms of a text and of a query."""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

__all__ = ["query_terms", "terms_of", "terms_of_word", "words_of"]

# Scripts written without spaces; a run of them is split into characters and pairs of characters.
UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
WORD = re.compile(rf"[{UNSPACED}]+|(?:(?![{UNSPACED}])[\w\u0300-\u036f\u0590-\u08ff\u0900-\u0dff])+")
ASCII_WORD = re.compile(r"[A-Za-z0-9_]+")
IS_UNSPACED = re.compile(f"[{UNSPACED}]")
# Arabic vowel marks and tatweel, which people leave out of queries.
ARABIC_MARKS = re.compile("[\u0640\u064b-\u065f\u0670]")
HUMPS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^\W\dA-Za-z_]+")
LONGEST = 100  # characters of a word; anything longer is encoded data


def terms_of(text: str) -> Counter[str]:
    """Terms of a text, with their counts.

    These are lower-cased words, identifiers whole and in parts, and, in scripts without spaces, characters and pairs.
    """
    terms: Counter[str] = Counter()
    for word, times in Counter(words_of(text)).items():
        for term in terms_of_word(word):
            terms[term] += times
    return terms


def query_terms(text: str) -> list[str]:
    """Terms of a query, each once."""
    terms: dict[str, None] = {}
    for word in words_of(text):
        word_terms = terms_of_word(word)
        if len(word) > 1 and IS_UNSPACED.match(word):
            # Pairs are more specific than single characters, and cover the whole run.
            word_terms = tuple(term for term in word_terms if len(term) > 1)
        terms.update(dict.fromkeys(word_terms))
    return list(terms)


def words_of(text: str) -> list[str]:
    """Words and runs of unspaced scripts, in order, with repeats."""
    if text.isascii():
        return ASCII_WORD.findall(text)
    return WORD.findall(ARABIC_MARKS.sub("", unicodedata.normalize("NFKC", text)))


def terms_of_word(word: str) -> tuple[str, ...]:
    """Terms of a word, with repeats."""
    if not word.isascii() and IS_UNSPACED.match(word):
        # Not cached: the same run rarely occurs twice.
        return (*word, *(word[i : i + 2] for i in range(len(word) - 1)))
    return _terms_of_spaced(word) if len(word) <= LONGEST else ()


@lru_cache(maxsize=1 << 15)
def _terms_of_spaced(word: str) -> tuple[str, ...]:
    """Terms of a word in a script with spaces: the whole word, and its parts if it is an identifier."""
    parts = [part.lower() for part in HUMPS.findall(word)]
    whole = word.replace("_", "").lower()
    if len(parts) > 1:
        return (whole, *parts)
    return (whole,) if whole else ()
