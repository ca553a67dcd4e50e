"""Queries, each with a list of candidates and the teacher's scores.

A query comes from its passage's source, is asked by the base model, or is made from a sentence or words of the passage.
Candidates are what the demo embedder finds, as they are at inference. The teacher, a cross-encoder trained on MS MARCO,
scores whatever was asked of whatever was found, so no query has to be answered by its own passage.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.prompts import INSTRUCTIONS
from qwen3_rag.records import passage_text
from recipe.corpus import CHARACTERS, Passage, shorten

__all__ = ["Ask", "CandidateList", "Embed", "Teach", "make_lists"]

Float32 = NDArray[np.float32]
Embed = Callable[[list[str], bool], Float32]  # texts, and whether they are queries -> unit vectors
Teach = Callable[[list[tuple[str, str]]], Float32]  # (query, document) pairs -> log-odds
Ask = Callable[[list[str]], list[str]]  # texts -> a question about each

DEVELOPMENT_ONE_IN = 12
DEVELOPMENT_CANDIDATES = 20
# Ranks of the embedder that the candidates of a training list are drawn from, and how many from each; the last of a
# list is any passage at all.
DRAWN = ((0, 4, 2), (4, 12, 2), (12, 50, 2))
INSTRUCTIONS_OF = {
    "text": ["web-search"] * 6 + ["question-answering", "support", "code-question"],
    "question": ["web-search"] * 6 + ["question-answering"] * 3,
    "code": ["web-search"] * 3 + ["code-search"] * 3 + ["code-question"],
}
ASKED = {"text": 0.5, "question": 0.4, "code": 0.0}  # share of the queries that the base model asks


@dataclass(frozen=True)
class CandidateList:
    """A query and its candidates.

    Attributes:
        kind: Kind of the passage that the query came from: `text`, `question` or `code`.
        instruction: The instruction's text.
        query: The query.
        documents: Candidates; `documents[0]` is the passage that the query came from.
        teacher: The teacher's log-odds, shape (candidates,).
        cosine: The embedder's similarity to the query, shape (candidates,).
    """

    kind: str
    instruction: str
    query: str
    documents: tuple[str, ...]
    teacher: Float32
    cosine: Float32


def make_lists(
    passages: Sequence[Passage], embed: Embed, teach: Teach, ask: Ask, count: int, development: int, seed: int
) -> tuple[list[CandidateList], list[CandidateList]]:
    """Make training lists (the query's passage, six of the 50 nearest, one at random) and development lists.

    Args:
        passages: Passages in random order; one in twelve is used only in development lists.
        embed: The demo embedder.
        teach: The cross-encoder. For code, its scores and the embedder's are added, each in units of its own spread.
        ask: Asks a question about each text.
        count: Number of training lists, at most one for each passage.
        development: Number of development lists, with the query's passage and the 19 nearest.
        seed: Seed of all random choices.
    """
    rng = random.Random(seed)
    passages = [replace(p, text=shorten(p.text, _length(rng))) for p in passages]
    documents = [_render(passage, rng) for passage in passages]
    vectors = embed(documents, False)
    held_out = [i for i in range(len(passages)) if i % DEVELOPMENT_ONE_IN == 0]
    training = [i for i in range(len(passages)) if i % DEVELOPMENT_ONE_IN]
    weights = _word_weights(passages)
    drafts: list[list[CandidateList]] = []
    for pool, limit, pick in ((training, count, _draw), (held_out, development, _nearest)):
        chosen = pool[:limit]
        queries = _queries([passages[i] for i in chosen], weights, ask, rng)
        similarity = embed(queries, True) @ vectors[pool].T
        rows = []
        for row, (query, cosine) in enumerate(zip(queries, similarity, strict=True)):
            picked = pick(np.argsort(-cosine), row, rng)
            kind = passages[chosen[row]].kind
            texts = tuple(documents[pool[i]] for i in picked)
            instruction = INSTRUCTIONS[rng.choice(INSTRUCTIONS_OF[kind])]
            rows.append(CandidateList(kind, instruction, query, texts, np.zeros(0, np.float32), cosine[picked]))
        drafts.append(rows)
    return _taught(drafts[0], teach), _taught(drafts[1], teach)


def _taught(rows: list[CandidateList], teach: Teach) -> list[CandidateList]:
    if not rows:
        return []
    scores = teach([(row.query, document) for row in rows for document in row.documents])
    ends = np.cumsum([len(row.documents) for row in rows])[:-1]
    rows = [replace(row, teacher=part) for row, part in zip(rows, np.split(scores, ends), strict=True)]
    code = [row for row in rows if row.kind == "code"]
    # Spread within a list: what z-scores divide by, but the same for all lists, so that the zero keeps its meaning.
    of_teacher, of_embedder = (
        float(np.mean([getattr(row, name).std() for row in code] or [1.0])) for name in ("teacher", "cosine")
    )

    def summed(row: CandidateList) -> Float32:
        centred = row.cosine - row.cosine.mean()
        return np.asarray(row.teacher + centred * (of_teacher / of_embedder), np.float32)

    return [replace(row, teacher=summed(row)) if row.kind == "code" else row for row in rows]


def _draw(order: NDArray[np.int64], own: int, rng: random.Random) -> list[int]:
    others = [int(i) for i in order if i != own]
    near = [(others[start:stop], count) for start, stop, count in DRAWN]
    drawn = [i for part, count in near for i in rng.sample(part, min(count, len(part)))]
    return [own, *drawn, rng.choice([i for i in others if i not in drawn])]


def _nearest(order: NDArray[np.int64], own: int, rng: random.Random) -> list[int]:
    return [own, *[int(i) for i in order if i != own][: DEVELOPMENT_CANDIDATES - 1]]


def _length(rng: random.Random) -> int:
    """Characters of a passage: mostly 200 to 600, some longer."""
    return rng.randint(200, 600) if rng.random() < 0.75 else rng.randint(600, CHARACTERS)


def _render(passage: Passage, rng: random.Random) -> str:
    """The text as the pipeline shows it to the models; the title is left out where collections have none."""
    return passage_text(passage.text, passage.title or None, titles=rng.random() < 0.5)


def _queries(passages: Sequence[Passage], weight: Callable[[str], float], ask: Ask, rng: random.Random) -> list[str]:
    asked = [i for i, passage in enumerate(passages) if rng.random() < ASKED[passage.kind]]
    # Two or three sentences from anywhere: what a user asks about is seldom the first sentence.
    questions = dict(zip(asked, ask([_excerpt(passages[i].text, rng) for i in asked]), strict=True))
    return [questions.get(i) or _query(passage, weight, rng) for i, passage in enumerate(passages)]


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?]) (?=[A-Z])", text)


def _excerpt(text: str, rng: random.Random) -> str:
    sentences = _sentences(text)
    start = rng.randrange(max(1, len(sentences) - 1))
    return shorten(" ".join(sentences[start : start + 3]), 300)


def _query(passage: Passage, weight: Callable[[str], float], rng: random.Random) -> str:
    """One of the source's own queries, or a sentence or words of the text."""
    if passage.queries and rng.random() < (0.9 if passage.kind == "code" else 0.7):
        return rng.choice(passage.queries)
    sentence = rng.choice(_sentences(passage.text))
    if passage.kind == "code" or rng.random() < 0.5 or not 5 <= len(sentence.split()) <= 30:
        return _keywords(passage.text, weight, rng)
    return sentence.rstrip(".")


def _keywords(text: str, weight: Callable[[str], float], rng: random.Random) -> str:
    words = list(dict.fromkeys(re.findall(r"[A-Za-z][\w-]{2,}", text)))
    common = sorted(words, key=lambda w: weight(w.lower()) * rng.uniform(0.6, 1.0), reverse=True)
    chosen = set(common[: rng.randint(3, 8)])
    return " ".join(word for word in words if word in chosen) or text[:60]


def _word_weights(passages: Sequence[Passage]) -> Callable[[str], float]:
    words = re.compile(r"[a-z0-9]+")
    counts = Counter(word for passage in passages for word in set(words.findall(passage.text.lower())))
    return lambda word: log(len(passages) / (counts[word] + 1) + 1)
