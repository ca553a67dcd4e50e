"""Queries, each with a list of candidates and the teacher's scores.

The teacher combines the demo embedder's similarity, the lexical overlap, and which passage the query was made from. The
embedder's nearest passages are hard negatives; some of them answer the query too, so the targets are soft.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.prompts import INSTRUCTIONS
from qwen3_rag.training.demo_corpus import CHARACTERS, Passage, shorten

__all__ = ["CandidateList", "Embed", "make_lists"]

# Texts and whether they are queries -> unit vectors.
Embed = Callable[[list[str], bool], NDArray[np.float32]]

WORD = re.compile(r"[a-z0-9]+")
DEVELOPMENT_ONE_IN = 12
DEVELOPMENT_CANDIDATES = 20
INSTRUCTIONS_OF = {
    "text": ["web-search"] * 6 + ["question-answering", "support", "code-question"],
    "question": ["web-search"] * 6 + ["question-answering"] * 3,
    "code": ["web-search"] * 3 + ["code-search"] * 3 + ["code-question"],
}


@dataclass(frozen=True)
class CandidateList:
    """A query and its candidates, the known answer first.

    Attributes:
        instruction: The instruction's text.
        query: The query.
        documents: Candidates; `documents[0]` is the passage that the query was made from.
        teacher: The teacher's log-odds up to an additive constant, shape (candidates,).
        cosine: The embedder's similarity to the query, shape (candidates,).
        easy: Number of candidates at the end of the list that certainly do not answer the query.
    """

    instruction: str
    query: str
    documents: tuple[str, ...]
    teacher: NDArray[np.float32]
    cosine: NDArray[np.float32]
    easy: int = 0


def make_lists(
    passages: Sequence[Passage], embed: Embed, count: int, development: int, seed: int
) -> tuple[list[CandidateList], list[CandidateList]]:
    """Make training lists (the known answer, 3 of the 12 nearest, 1 of the 64 nearest, 1 random) and development lists.

    Args:
        passages: Passages in random order; one in twelve is used only in development lists.
        embed: The teacher's embedder.
        count: Number of training lists, at most one for each passage.
        development: Number of development lists, with the known answer and the 19 nearest passages.
        seed: Seed of all random choices.
    """
    rng = random.Random(seed)
    weights = _word_weights(passages)
    examples = [_make_query(passage, weights, rng) for passage in passages]
    documents = [_render(passage, rng) for passage, _ in examples]
    held_out = [i for i in range(len(examples)) if i % DEVELOPMENT_ONE_IN == 0]
    training = [i for i in range(len(examples)) if i % DEVELOPMENT_ONE_IN]
    vectors = embed(documents, False)
    lists = []
    for pool, limit, pick in ((training, count, _pick_for_training), (held_out, development, _pick_nearest)):
        chosen = pool[:limit]
        queries = [examples[i][1] for i in chosen]
        similarity = embed(queries, True) @ vectors[pool].T
        rows = []
        for row, (query, cosine) in enumerate(zip(queries, similarity, strict=True)):
            picked = pick(np.argsort(-cosine), row, rng)
            texts = tuple(documents[pool[i]] for i in picked)
            overlap = np.array([_overlap(query, text, weights) for text in texts], dtype=np.float32)
            teacher = 45 * cosine[picked] + 4 * overlap
            teacher[0] += 3
            instruction = INSTRUCTIONS[rng.choice(INSTRUCTIONS_OF[examples[chosen[row]][0].kind])]
            rows.append(CandidateList(instruction, query, texts, teacher, cosine[picked], 2))
        lists.append(rows)
    return lists[0], lists[1]


def _pick_for_training(order: NDArray[np.int64], answer: int, rng: random.Random) -> list[int]:
    nearest = [int(i) for i in order[:65] if i != answer]
    hard = rng.sample(nearest[:12], min(3, len(nearest)))
    rest = [i for i in nearest[12:] if i not in hard] or nearest
    return [answer, *hard, rng.choice(rest), rng.choice([i for i in rng.sample(range(len(order)), 2) if i != answer])]


def _pick_nearest(order: NDArray[np.int64], answer: int, rng: random.Random) -> list[int]:
    return [answer, *[int(i) for i in order if i != answer][: DEVELOPMENT_CANDIDATES - 1]]


def _words(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))


def _word_weights(passages: Sequence[Passage]) -> Callable[[str], float]:
    counts = Counter(word for passage in passages for word in _words(f"{passage.title} {passage.text}"))
    return lambda word: math.log(len(passages) / (counts[word] + 1) + 1)


def _overlap(query: str, document: str, weight: Callable[[str], float]) -> float:
    query_words, document_words = _words(query), _words(document)
    return sum(weight(w) for w in query_words & document_words) / (sum(map(weight, query_words)) or 1.0)


def _make_query(passage: Passage, weight: Callable[[str], float], rng: random.Random) -> tuple[Passage, str]:
    """Make a query for a passage; returns the passage, possibly shortened, and the query."""
    passage = replace(passage, text=shorten(passage.text, rng.randint(160, CHARACTERS)))
    if passage.queries and rng.random() < (0.9 if passage.kind == "code" else 0.65):
        query = rng.choice(passage.queries)
        # A title equal to the query would only teach copying.
        copied = query.lower() == passage.title.lower() and rng.random() < 0.6
        return (replace(passage, title="") if copied else passage), query
    sentences = re.split(r"(?<=[.!?]) (?=[A-Z])", passage.text)
    sentence = rng.choice(sentences)
    if passage.kind == "code" or rng.random() < 0.4 or not 5 <= len(sentence.split()) <= 30 or len(sentences) == 1:
        return passage, _keywords(passage, weight, rng)
    if len(sentences) > 2 and rng.random() < 0.5:
        passage = replace(passage, text=" ".join(s for s in sentences if s != sentence))
    return passage, _question(sentence) or sentence.rstrip(".")


def _keywords(passage: Passage, weight: Callable[[str], float], rng: random.Random) -> str:
    words = list(dict.fromkeys(re.findall(r"[A-Za-z][\w-]{2,}", passage.text)))
    common = sorted(words, key=lambda w: weight(w.lower()) * rng.uniform(0.6, 1.0), reverse=True)
    chosen = set(common[: rng.randint(3, 6)])
    return " ".join(word for word in words if word in chosen) or passage.text[:60]


def _question(sentence: str) -> str:
    """A question for the sentence's subject: "A shell is a program that ..." becomes "what is a program that ...?"."""
    match = re.match(r"((?:\S+ ){1,6}?)(is|are|was|were|can|will|has|have|provides|allows|does) (.{20,140})", sentence)
    if not match or match[1].lower().startswith(("if ", "when ", "this ", "it ", "there ")):
        return ""
    return f"what {match[2]} {match[3].rstrip('.;:,')}?"


def _render(passage: Passage, rng: random.Random) -> str:
    return f"{passage.title}\n{passage.text}" if passage.title and rng.random() < 0.6 else passage.text
