"""Words in any script: the terms under which a text is found, and those of a query."""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

__all__ = ["query_terms", "terms_of", "terms_of_word", "words_of"]

# Scripts written without blanks between words; their runs are cut into characters and pairs of characters.
UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
WORD = re.compile(rf"[{UNSPACED}]+|(?:(?![{UNSPACED}])[\w\u0300-\u036f\u0590-\u08ff\u0900-\u0dff])+")
ASCII_WORD = re.compile(r"[A-Za-z0-9_]+")
IS_UNSPACED = re.compile(f"[{UNSPACED}]")
# Arabic vowel marks and the lengthening stroke: people search without them.
ARABIC_MARKS = re.compile("[\u0640\u064b-\u065f\u0670]")
HUMPS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^\W\dA-Za-z_]+")
LONGEST = 100  # characters of a word: beyond lie encoded data, not words


def terms_of(text: str) -> Counter[str]:
    """Terms under which a text is found, with their counts.

    Lower-cased words; identifiers whole and in parts; of scripts without blanks, characters and pairs of them.
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
        found = terms_of_word(word)
        if len(word) > 1 and IS_UNSPACED.match(word):
            # Within a longer run the pairs say it all.
            found = tuple(term for term in found if len(term) > 1)
        terms.update(dict.fromkeys(found))
    return list(terms)


def words_of(text: str) -> list[str]:
    """Words, and runs of scripts without blanks, as they stand."""
    if text.isascii():
        return ASCII_WORD.findall(text)
    return WORD.findall(ARABIC_MARKS.sub("", unicodedata.normalize("NFKC", text)))


def terms_of_word(word: str) -> tuple[str, ...]:
    """Terms under which a word is found, repeated where it repeats them."""
    if not word.isascii() and IS_UNSPACED.match(word):
        # Hardly any run comes twice: a cache would keep them all for nothing.
        return (*word, *(word[i : i + 2] for i in range(len(word) - 1)))
    return _terms_of_spaced(word) if len(word) <= LONGEST else ()


@lru_cache(maxsize=1 << 15)
def _terms_of_spaced(word: str) -> tuple[str, ...]:
    """Terms of a word between blanks: the whole, and its parts if it is an identifier."""
    parts = [part.lower() for part in HUMPS.findall(word)]
    whole = word.replace("_", "").lower()
    if len(parts) > 1:
        return (whole, *parts)
    return (whole,) if whole else ()
