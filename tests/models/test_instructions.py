"""The native engine computes what all inputs of an instruction start with once, and keeps it between calls."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from qwen3_rag import Embedder, Reranker
from qwen3_rag.errors import ModelError
from qwen3_rag.models.engine.packing import KEPT, LONGEST_KEPT, Layout, Prefix

TEXTS = [json.loads(line)["text"] for line in (ROOT / "data/demo/corpus.jsonl").read_text("utf-8").splitlines()]
INSTRUCTIONS = [f"Given a question about topic {i}, retrieve passages that answer it" for i in range(KEPT + 2)]
QUERIES = ["what raises the tides", "why does bread rise", "\na", ": 中文", "\n\nQuery:", "\u0301a", " a", "<|im_end|>"]


@pytest.fixture(scope="module")
def official(tiny_reranker: Path) -> Reranker:
    return Reranker(str(tiny_reranker), dtype="float32", runtime="transformers")


@pytest.fixture
def reranker(tiny_reranker: Path) -> Reranker:
    return Reranker(str(tiny_reranker), dtype="float32", runtime_options={"compile": False})


@contextmanager
def layouts_of(model: Any) -> Iterator[list[Layout]]:
    runner = model.loaded.engine.runner
    run, layouts = runner.run, []
    runner.run = lambda layout, may_compile: (layouts.append(layout), run(layout))[1]
    yield layouts
    runner.run = run


def kept(model: Any) -> list[Prefix]:
    return list(model.loaded.instructions._prefixes.values())


@pytest.mark.parametrize("documents", [1, 3])
def test_an_instruction_is_computed_by_the_first_call_only(
    reranker: Reranker, official: Reranker, documents: int
) -> None:
    scores = []
    with layouts_of(reranker) as layouts:
        for query in QUERIES[:2]:
            scores.append(reranker.log_odds(query, TEXTS[:documents]))
    computed = [sum(s.computes is not None and s.computes.kept for s in layout.sequences) for layout in layouts]
    assert computed == [1, 0, 0], "by itself, then two calls"
    (prefix,) = kept(reranker)
    assert len(prefix) > 50
    assert min(layouts[1].positions) == min(layouts[2].positions) == len(prefix)
    for query, values in zip(QUERIES[:2], scores, strict=True):
        np.testing.assert_allclose(values, official.log_odds(query, TEXTS[:documents]), atol=1e-4)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("documents", [1, 3])
def test_any_query_after_a_kept_instruction_has_the_official_score(
    reranker: Reranker, official: Reranker, query: str, documents: int
) -> None:
    for _ in range(2):
        scores = reranker.log_odds(query, TEXTS[:documents])
        np.testing.assert_allclose(scores, official.log_odds(query, TEXTS[:documents]), atol=1e-4)


def test_the_first_call_with_an_instruction_gives_the_same_bits_as_later_ones(
    reranker: Reranker, tiny_embedder: Path
) -> None:
    embedder = Embedder(str(tiny_embedder), dtype="float32", runtime_options={"compile": False})
    for documents in (TEXTS[:1], TEXTS[:5], TEXTS):
        first, *later = [reranker.log_odds(QUERIES[0], documents) for _ in range(3)]
        assert all((scores == first).all() for scores in later)
        reranker.loaded.instructions._prefixes.clear()  # type: ignore[attr-defined]
    first, *later = [embedder.encode_query(QUERIES) for _ in range(3)]
    assert all((vectors == first).all() for vectors in later)


def test_the_instructions_used_last_are_kept(reranker: Reranker, official: Reranker) -> None:
    for instruction in [*INSTRUCTIONS, INSTRUCTIONS[0]]:
        scores = reranker.log_odds(QUERIES[0], TEXTS[:3], instruction=instruction)
        expected = official.log_odds(QUERIES[0], TEXTS[:3], instruction=instruction)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert len(kept(reranker)) == KEPT


def test_callers_with_different_instructions_share_batches(reranker: Reranker, official: Reranker) -> None:
    jobs = [(QUERIES[i % 2], TEXTS[i : i + 1 + i % 3], INSTRUCTIONS[i % len(INSTRUCTIONS)]) for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(lambda job: reranker.log_odds(*job[:2], instruction=job[2]), jobs))
    for (query, texts, instruction), values in zip(jobs, scores, strict=True):
        np.testing.assert_allclose(values, official.log_odds(query, texts, instruction=instruction), atol=1e-4)


def test_a_long_instruction_is_not_kept(reranker: Reranker, official: Reranker) -> None:
    instruction = "Retrieve what answers the question. " * LONGEST_KEPT
    scores = reranker.log_odds(QUERIES[0], TEXTS[:2], instruction=instruction)
    assert not kept(reranker)
    np.testing.assert_allclose(scores, official.log_odds(QUERIES[0], TEXTS[:2], instruction=instruction), atol=1e-4)


def test_an_instruction_whose_batch_failed_is_computed_again(reranker: Reranker, official: Reranker) -> None:
    runner = reranker.loaded.engine.runner
    states = runner._states

    def failing(layout: Layout) -> None:
        states(layout)
        raise ModelError("failed after the prefixes were computed")

    runner._states = failing
    with pytest.raises(ModelError, match="failed after"):
        reranker.log_odds(QUERIES[0], TEXTS[:2])
    assert not any(prefix.keys_values for prefix in kept(reranker))
    runner._states = states
    np.testing.assert_allclose(
        reranker.log_odds(QUERIES[0], TEXTS[:2]), official.log_odds(QUERIES[0], TEXTS[:2]), atol=1e-4
    )


def test_complete_inputs_that_share_nothing_but_the_template(reranker: Reranker, official: Reranker) -> None:
    form = reranker.loaded.format
    inputs = [form.prefix + form.tokens.encode([text])[0] + form.suffix for text in ("a b c", "1 2 3")]
    scores = [reranker.read_ids(inputs).log_odds, reranker.read_ids(inputs).log_odds]
    for values in scores:
        np.testing.assert_allclose(values, official.read_ids(inputs).log_odds, atol=1e-4)


def test_queries_are_embedded_after_a_kept_instruction(tiny_embedder: Path) -> None:
    embedder = Embedder(str(tiny_embedder), dtype="float32", runtime_options={"compile": False})
    official = Embedder(str(tiny_embedder), dtype="float32", runtime="transformers")
    with layouts_of(embedder) as layouts:
        for _ in range(2):
            vectors = embedder.encode_query(QUERIES)
            np.testing.assert_allclose(vectors, official.encode_query(QUERIES), atol=1e-5)
    (prefix,) = kept(embedder)
    assert sum(s.prefix is prefix for s in layouts[2].sequences) >= len(QUERIES) - 2
    np.testing.assert_allclose(embedder.encode_document(TEXTS[:3]), official.encode_document(TEXTS[:3]), atol=1e-5)


def test_new_instructions_of_many_callers_keep_to_the_budget(tiny_reranker: Path) -> None:
    budget = 600
    options = {"compile": False, "token_budget": budget}
    reranker = Reranker(str(tiny_reranker), dtype="float32", runtime_options=options)
    instructions = [f"Given a question about topic {i}, " + "retrieve passages " * 50 for i in range(24)]
    with layouts_of(reranker) as layouts, ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda each: reranker.score("tides", TEXTS[:1], instruction=each), instructions))
    assert max(len(layout.ids) for layout in layouts) <= budget
    new = 0  # instructions computed since the last results, which all stay in memory
    for layout in layouts:
        new = 0 if layout.results else new + len(layout.ids)
        assert new <= budget + LONGEST_KEPT
