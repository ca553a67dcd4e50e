"""Inputs as token ids, and what a result says of its inputs: tokens, truncation, batches."""

import threading
from pathlib import Path

import numpy as np
import pytest

from qwen3_rag import Embedder, Reranker
from qwen3_rag.errors import InvalidArgumentError, StoppedError
from qwen3_rag.prompts import INSTRUCTIONS

QUERY, TEXTS = "what raises the tides", ["The moon raises the tides.", "", "Bread rises."]
LOCAL = ["native", "transformers"]


@pytest.fixture(params=LOCAL)
def reranker(request: pytest.FixtureRequest, tiny_reranker: Path) -> Reranker:
    return Reranker(str(tiny_reranker), dtype="float32", runtime=request.param)


@pytest.fixture(params=LOCAL)
def embedder(request: pytest.FixtureRequest, tiny_embedder: Path) -> Embedder:
    return Embedder(str(tiny_embedder), dtype="float32", runtime=request.param)


def inputs_of(reranker: Reranker, texts: list[str]) -> list[list[int]]:
    (group,) = reranker.loaded.format.encode(INSTRUCTIONS["web-search"], [(QUERY, texts)])  # type: ignore[attr-defined]
    return list(group.inputs)


def test_reranker_ids_give_the_scores_of_their_texts(reranker: Reranker) -> None:
    inputs = inputs_of(reranker, TEXTS)
    by_text, by_ids = reranker.read(QUERY, TEXTS), reranker.read_ids(inputs)
    np.testing.assert_allclose(by_ids.log_odds, by_text.log_odds, atol=1e-4)
    assert by_ids.tokens == by_text.tokens == sum(map(len, inputs))
    assert reranker.read_ids(inputs[:1]).log_odds[0] == pytest.approx(by_text.log_odds[0], abs=1e-4)


def test_reranker_ids_are_refused_without_the_template_or_with_control_tokens_in_it(reranker: Reranker) -> None:
    (whole,) = inputs_of(reranker, TEXTS[:1])
    form = reranker.loaded.format  # type: ignore[attr-defined]
    body, end = whole[: -len(form.suffix)], form.suffix
    for bad, message in (
        (whole[3:], "whole template"),
        (whole[:-3], "whole template"),
        ([*body, form.tokens.token_id("<|im_end|>"), *end], "ordinary tokens"),
        ([*body, 10**6, *end], "ordinary tokens"),
        ([*body, *body[-1:] * 9000, *end], "expected at most 8192"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            reranker.read_ids([bad])


def test_embedder_ids_give_the_vectors_of_their_texts(embedder: Embedder) -> None:
    form = embedder.loaded.format  # type: ignore[attr-defined]
    inputs = form.documents(TEXTS).ids
    by_text, by_ids = embedder.embed(TEXTS), embedder.embed_ids(inputs)
    np.testing.assert_allclose(by_ids.vectors, by_text.vectors, atol=1e-5)
    assert by_ids.tokens == by_text.tokens == sum(map(len, inputs))
    for bad, message in (
        ([5, 6, 7], "check_embedding_ctx_length=False"),
        ([5, form.end, form.end], "ordinary tokens"),
        ([5] * 9000 + [form.end], "expected at most 8192"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            embedder.embed_ids([bad])


@pytest.mark.parametrize("runtime", [*LOCAL, "sentence-transformers"])
def test_embed_counts_tokens_and_truncated_texts(tiny_embedder: Path, runtime: str) -> None:
    embedder = Embedder(str(tiny_embedder), dtype="float32", max_length=8, runtime=runtime)
    result = embedder.embed(["tide", "tide " * 20])
    assert (result.truncated, result.tokens) == (1, len(embedder.spans("tide")) + 1 + 8)
    np.testing.assert_allclose(result.vectors, embedder.encode_document(["tide", "tide " * 20]), atol=1e-6)


@pytest.mark.parametrize("runtime", [*LOCAL, "sentence-transformers"])
def test_embed_stops_with_an_error_when_cancelled(tiny_embedder: Path, runtime: str) -> None:
    embedder = Embedder(str(tiny_embedder), dtype="float32", runtime=runtime)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(StoppedError, match="cancelled: 2 of 2 texts"):
        embedder.embed(["a", "b"], cancel=cancelled)
    with pytest.raises(StoppedError, match="deadline passed"):
        embedder.embed(["a", "b"], query=True, deadline=0)
    with pytest.raises(InvalidArgumentError, match="documents take no instruction"):
        embedder.embed(["a"], instruction="web-search")


@pytest.mark.parametrize("runtime", [*LOCAL, "sentence-transformers"])
def test_document_budget_is_what_is_read_of_a_document(tiny_reranker: Path, runtime: str) -> None:
    reranker = Reranker(str(tiny_reranker), dtype="float32", max_length=128, runtime=runtime)
    budget = reranker.document_budget(QUERY)
    word = "a "
    assert reranker.read(QUERY, [word * budget]).truncated == int(len(reranker.spans(" " + word * budget)) > budget)
    assert reranker.read(QUERY, [word * 2 * budget]).truncated == 1
    assert reranker.read(QUERY, ["a"]).truncated == 0
    assert reranker.longest == 128


def test_work_counts_the_tokens_of_batches(tiny_reranker: Path) -> None:
    reranker = Reranker(str(tiny_reranker), dtype="float32", runtime_options={"token_budget": 64})
    reranker.read(QUERY, TEXTS)
    work = reranker.loaded.work
    assert work is not None
    assert work.items == 3
    assert work.capacity >= work.tokens > 0
    assert 1 <= work.batches <= 3
