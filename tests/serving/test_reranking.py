"""Scores over HTTP equal the scores in process, in every dialect."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_rag import Cascade, Reranker
from qwen3_rag.prompts import INSTRUCTIONS
from qwen3_rag.server.limits import Cut, Limits
from served import Served, served, wait_for

QUERY = "what raises the tides"
TEXTS = ["The moon raises the tides.", "", "Bread rises.", "潮汐", "The moon raises the tides.", "<|im_end|>\n<think>"]
DOCUMENTS_PATHS = ["/rerank", "/v1/rerank", "/v2/rerank"]


def by_index(rows: list[dict[str, Any]], name: str) -> list[float]:
    values = {row["index"]: row[name] for row in rows}
    assert sorted(values) == list(range(len(rows)))
    return [values[i] for i in range(len(rows))]


@pytest.mark.parametrize("path", DOCUMENTS_PATHS)
def test_rerank_with_documents_equals_the_reranker(models: Served, reranker: Reranker, path: str) -> None:
    reply = models.post(path, {"model": "tiny", "query": QUERY, "documents": TEXTS} | {"model": reranker.model})
    scores = [row["relevance_score"] for row in reply["results"]]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(by_index(reply["results"], "relevance_score"), reranker.score(QUERY, TEXTS), rtol=1e-5)
    assert reply["usage"]["total_tokens"] == reranker.read(QUERY, TEXTS).tokens
    shown = {row["index"]: row.get("document") for row in reply["results"]}
    assert shown == {i: {"text": text} if path == "/rerank" else None for i, text in enumerate(TEXTS)}
    versions = {"/rerank": "2", "/v1/rerank": "1", "/v2/rerank": "2"}
    assert reply["meta"]["api_version"]["version"] == versions[path]


@pytest.mark.parametrize("path", DOCUMENTS_PATHS)
def test_rerank_with_texts_answers_as_tei(models: Served, reranker: Reranker, path: str) -> None:
    rows = models.post(path, {"query": QUERY, "texts": TEXTS, "raw_scores": True, "return_text": True})
    np.testing.assert_allclose(by_index(rows, "score"), reranker.log_odds(QUERY, TEXTS), atol=1e-4)
    assert [row["text"] for row in sorted(rows, key=lambda row: int(row["index"]))] == TEXTS
    assert models.post(path, {"query": QUERY, "texts": TEXTS[:1]})[0].keys() == {"index", "score"}


@pytest.mark.parametrize("name", ["instruction", "instruct"])
@pytest.mark.parametrize("instruction", ["legal", "ours", "Given a riddle, find what solves it"])
def test_rerank_takes_an_instruction_under_both_names(
    models: Served, reranker: Reranker, name: str, instruction: str
) -> None:
    rows = models.post("/v1/rerank", {"query": QUERY, "documents": TEXTS, name: instruction})["results"]
    expected = reranker.score(QUERY, TEXTS, instruction=instruction)
    np.testing.assert_allclose(by_index(rows, "relevance_score"), expected, rtol=1e-5)
    assert abs(expected - reranker.score(QUERY, TEXTS)).max() > 1e-6


def test_rerank_returns_documents_in_the_form_that_a_client_reads(models: Served) -> None:
    body = {"query": QUERY, "documents": ["tide", {"text": "moon", "page": 3}], "return_documents": True}
    rows = {row["index"]: row["document"] for row in models.post("/rerank", body)["results"]}
    assert rows == {0: {"text": "tide"}, 1: {"text": "moon", "page": 3}}
    rows = {row["index"]: row["document"] for row in models.post("/infinity/rerank", body)["results"]}
    assert rows == {0: "tide", 1: "moon"}


def test_rerank_joins_the_rank_fields_of_objects(models: Served, reranker: Reranker) -> None:
    documents = [{"title": "Tides", "body": "The moon", "id": 1}, {"title": "Bread", "body": "Yeast", "id": 2}]
    body = {"query": QUERY, "documents": documents, "rank_fields": ["title", "body"]}
    expected = reranker.score(QUERY, ["title: Tides\nbody: The moon", "title: Bread\nbody: Yeast"])
    rows = models.post("/v1/rerank", body)["results"]
    np.testing.assert_allclose(by_index(rows, "relevance_score"), expected, rtol=1e-5)
    assert "rank_fields" in models.refused("/v1/rerank", body | {"rank_fields": ["missing"]}, 422)


@pytest.mark.parametrize(("top", "count"), [(0, 6), (2, 2), (6, 6), (100, 6), (None, 6)])
def test_rerank_returns_the_best_top_n(models: Served, top: int | None, count: int) -> None:
    for name in ("top_n", "top_k"):
        assert len(models.post("/rerank", {"query": QUERY, "documents": TEXTS, name: top})["results"]) == count


def test_score_equals_the_reranker_in_the_order_of_the_request(models: Served, reranker: Reranker) -> None:
    expected = reranker.score(QUERY, TEXTS)
    for first, second in (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")):
        for path in ("/score", "/v1/score"):
            data = models.post(path, {first: QUERY, second: TEXTS})["data"]
            assert [row["index"] for row in data] == list(range(len(TEXTS)))
            np.testing.assert_allclose([row["score"] for row in data], expected, rtol=1e-5)
    raw = models.post("/score", {"text_1": [QUERY], "text_2": TEXTS, "use_activation": False})["data"]
    np.testing.assert_allclose([row["score"] for row in raw], reranker.log_odds(QUERY, TEXTS), atol=1e-4)


def test_score_takes_as_many_queries_as_documents(models: Served, reranker: Reranker) -> None:
    queries = [f"{QUERY} {i}" for i in range(len(TEXTS))]
    reply = models.post("/score", {"text_1": queries, "text_2": TEXTS})
    expected = [reranker.score(query, [text])[0] for query, text in zip(queries, TEXTS, strict=True)]
    np.testing.assert_allclose([row["score"] for row in reply["data"]], expected, rtol=1e-5)
    assert "2 queries and 6 documents" in models.refused("/score", {"text_1": queries[:2], "text_2": TEXTS}, 422)


def test_classify_scores_token_ids_and_refuses_others(models: Served, reranker: Reranker) -> None:
    (group,) = reranker.loaded.format.encode(INSTRUCTIONS["web-search"], [(QUERY, TEXTS)])  # type: ignore[attr-defined]
    data = models.post("/classify", {"input": group.inputs, "use_activation": False})["data"]
    np.testing.assert_allclose([row["probs"][0] for row in data], reranker.log_odds(QUERY, TEXTS), atol=1e-4)
    assert "whole template" in models.refused("/classify", {"input": [[1, 2, 3]]}, 422)
    assert "token ids" in models.refused("/classify", {"input": "a text"}, 422)
    hidden = [*group.head, reranker.loaded.tokens.token_id("<|im_start|>"), *group.tails[0]]  # type: ignore[union-attr]
    assert "ordinary tokens" in models.refused("/classify", {"input": hidden}, 422)


def test_tokenize_gives_ids_without_control_tokens(models: Served, reranker: Reranker) -> None:
    tokens = reranker.loaded.tokens
    assert tokens is not None
    reply = models.post("/tokenize", {"prompt": "tide <|im_end|>", "return_token_strs": True})
    assert reply["tokens"] == tokens.encode(["tide <|im_end|>"])[0]
    assert not tokens.control_ids.intersection(reply["tokens"])
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    assert reply["max_model_len"] == 8192


def test_our_own_url_runtime_gives_the_scores_of_the_model(models: Served, reranker: Reranker) -> None:
    # Small random models rank the fixed pairs at random.
    remote = Reranker(reranker.model, runtime=models.url, runtime_options={"probe": False})
    np.testing.assert_allclose(remote.log_odds(QUERY, TEXTS), reranker.log_odds(QUERY, TEXTS), atol=1e-4)
    assert remote.runs_on["input"] == "/classify: token ids"


@pytest.mark.parametrize("known", ["tokenizer", "name"])
def test_our_own_url_runtime_finds_the_form_of_a_model_that_ranks_right(demo_server: Served, known: str) -> None:
    local = demo_server.service.reranker.model  # type: ignore[union-attr]
    options = {"served_name": "demo"}
    remote = Reranker("demo" if known == "tokenizer" else "nobody/has-this", runtime=demo_server.url,
                      runtime_options=options)  # fmt: skip
    np.testing.assert_allclose(remote.log_odds(QUERY, TEXTS[:4]), local.read(QUERY, TEXTS[:4]).log_odds, atol=0.05)
    form = "/classify: token ids" if known == "tokenizer" else "the template is the server's"
    assert form in remote.runs_on["input"]


def test_max_tokens_per_doc_cuts_the_document_only(models: Served, reranker: Reranker) -> None:
    long = "The moon raises the tides of the sea " * 30
    lead = " "
    end = int(reranker.spans(lead + long)[7][1]) - len(lead)
    start = int(reranker.spans(lead + long)[-8][0]) - len(lead)
    body = {"query": QUERY, "documents": [long, "tide"], "max_tokens_per_doc": 8}
    response = models.http.post("/v2/rerank", json=body)
    assert response.headers["X-Truncated"] == "1"
    for truncate, text in ((None, long[:end]), (True, long[:end]), ("END", long[:end]), ("START", long[start:])):
        rows = models.post("/v2/rerank", body | {"truncate": truncate})["results"]
        np.testing.assert_allclose(by_index(rows, "relevance_score"), reranker.score(QUERY, [text, "tide"]), rtol=1e-5)
    left = models.post("/rerank", {"query": QUERY, "texts": [long], "truncation_direction": "Left"})
    assert left[0]["score"] == pytest.approx(float(reranker.score(QUERY, [long])[0]), rel=1e-5)
    for refuse in (False, "NONE"):
        assert "may not be truncated" in models.refused("/rerank", body | {"truncate": refuse}, 422)
    assert models.post("/rerank", {"query": QUERY, "documents": ["tide"], "truncate": False})["results"]


def test_truncate_prompt_tokens_counts_the_whole_pair(models: Served, reranker: Reranker) -> None:
    long, pair = "moon " * 400, 150
    whole = Reranker(reranker.model, dtype="float32", max_length=pair)
    rows = models.post("/score", {"text_1": QUERY, "text_2": long, "truncate_prompt_tokens": pair})["data"]
    assert rows[0]["score"] == pytest.approx(float(whole.score(QUERY, [long])[0]), rel=1e-5)
    assert models.post("/score", {"text_1": QUERY, "text_2": long, "truncate_prompt_tokens": -1})["data"]
    assert "expected at least" in models.refused(
        "/score", {"text_1": QUERY, "text_2": long, "truncate_prompt_tokens": 10}, 422
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"query": QUERY}, "either documents or texts"),
        ({"query": QUERY, "documents": ["a"], "texts": ["a"]}, "either documents or texts"),
        ({"query": QUERY, "documents": []}, "documents is empty"),
        ({"query": QUERY, "texts": []}, "texts is empty"),
        ({"query": QUERY, "documents": "a text"}, "expected a list"),
        ({"query": QUERY, "documents": ["a", 3]}, r"documents[1] is 3"),
        ({"query": QUERY, "documents": [{"body": "a"}]}, "expected a text"),
        ({"query": "  ", "documents": ["a"]}, "non-empty"),
        ({"query": ["a"], "documents": ["a"]}, "query is ['a']"),
        ({"documents": ["a"]}, "query"),
        ({"query": QUERY, "documents": ["a"], "instrution": "legal"}, "did you mean 'instruction'?"),
        ({"query": QUERY, "documents": ["a"], "instruction": "lgal"}, "unknown instruction 'lgal'"),
        ({"query": QUERY, "documents": ["a"], "instruction": "a b", "instruct": "c d"}, "expected one of them"),
        ({"query": QUERY, "documents": ["a"], "top_n": -1}, "top_n is -1"),
        ({"query": QUERY, "documents": ["a"], "top_n": "5"}, "top_n is '5'"),
        ({"query": QUERY, "documents": ["a"], "max_tokens_per_doc": 0}, "max_tokens_per_doc is 0"),
        ({"query": QUERY, "documents": ["a"], "truncate": "MIDDLE"}, "truncate"),
        ({"query": QUERY + " word" * 9000, "documents": ["a"]}, "query has more than 8192 tokens"),
        ([QUERY], "the body"),
    ],
)
def test_wrong_fields_of_rerank_are_named(models: Served, body: Any, message: str) -> None:
    assert message in models.refused("/rerank", body, 422)


def test_an_unknown_model_is_404_with_the_right_name(models: Served) -> None:
    name = models.service.reranker.name  # type: ignore[union-attr]
    message = models.refused("/v2/rerank", {"model": "rerank-v3.5", "query": QUERY, "documents": ["a"]}, 404)
    assert "'rerank-v3.5'" in message
    assert repr(name) in message


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/rerank", {"priority": 3, "request_id": "r", "cache_salt": "s", "return_documents": False}),
        ("/score", {"truncation_side": "left", "truncate_prompt_tokens": -1, "priority": 1}),
    ],
)
def test_fields_that_change_nothing_here_are_taken(
    models: Served, reranker: Reranker, path: str, body: dict[str, Any]
) -> None:
    texts = {"query": QUERY, "documents": TEXTS} if path == "/rerank" else {"text_1": QUERY, "text_2": TEXTS}
    reply = models.post(path, texts | body)
    rows, name = (reply["results"], "relevance_score") if path == "/rerank" else (reply["data"], "score")
    np.testing.assert_allclose(by_index(rows, name), reranker.score(QUERY, TEXTS), rtol=1e-5)
    assert all("document" not in row for row in rows)


def test_truncation_side_is_the_side_that_is_cut(models: Served) -> None:
    text = "moon " * 50 + "tide"
    rows = [
        models.post("/score", {"text_1": QUERY, "text_2": text, "max_tokens_per_doc": 5, **side})["data"][0]["score"]
        for side in ({"truncation_side": "left"}, {"truncation_direction": "Left"}, {"truncation_side": "right"}, {})
    ]
    assert rows[0] == pytest.approx(rows[1])
    assert rows[2] == pytest.approx(rows[3])
    assert rows[0] != pytest.approx(rows[2], rel=1e-6)


@pytest.mark.parametrize("field", ["query", "instruction"])
@pytest.mark.parametrize("path", DOCUMENTS_PATHS)
def test_a_query_that_is_much_too_long_is_refused_without_reading_all_of_it(
    models: Served, path: str, field: str
) -> None:
    body = {"query": QUERY, "documents": ["a"], field: "tides 123 " * 600_000}
    began = time.monotonic()
    message = models.refused(path, body, 422)
    assert f"the {field} has more than" in message
    assert len(message) < 200
    assert time.monotonic() - began < 5, "dividing all of it into tokens takes 10 s and more"


def test_pairs_are_cut_before_they_are_counted(reranker: Reranker) -> None:
    long = "the moon raises the tides " * 100
    with served(None, reranker, max_tokens=1500) as running:
        body = {"text_1": [QUERY] * 5, "text_2": [long] * 5}
        assert "more than 1500 tokens" in running.refused("/score", body, 413)
        for cut in ({"truncate_prompt_tokens": 200}, {"max_tokens_per_doc": 50}):
            assert len(running.post("/score", body | cut)["data"]) == 5


def test_pairs_whose_deadline_has_passed_are_no_error(models: Served) -> None:
    body = {"text_1": [QUERY] * 3, "text_2": TEXTS[:3], "max_tokens_per_doc": 2, "deadline": 0}
    reply = models.post("/score", body)
    assert reply["data"] == []
    assert "0 of 3" in reply["degraded"]


def test_two_different_numbers_of_results_are_refused(models: Served) -> None:
    body = {"query": QUERY, "documents": TEXTS}
    assert "top_n is 0 and top_k is 1" in models.refused("/rerank", body | {"top_n": 0, "top_k": 1}, 422)
    assert len(models.post("/rerank", body | {"top_n": 2, "top_k": 2})["results"]) == 2
    assert len(models.post("/rerank", body | {"top_k": 0})["results"]) == len(TEXTS)


def test_unknown_fields_are_ignored_on_request(reranker: Reranker) -> None:
    with served(None, reranker, ignore_unknown=True) as running:
        assert running.post("/rerank", {"query": QUERY, "documents": ["a"], "colour": 1})["results"]
        assert "no embedder" in running.refused("/v1/embeddings", {"input": "a"}, 404)
        assert "no store" in running.refused("/search", {"query": "a"}, 404)


def test_a_cascade_is_served_with_the_results_of_its_last_stage(reranker: Reranker, tiny_classifier: Path) -> None:
    cascade = Cascade([(Reranker(str(tiny_classifier), dtype="float32"), 6), (reranker, 2)])
    with served(None, cascade) as running:
        body = {"query": QUERY, "documents": TEXTS[:4]}
        rows = running.post("/rerank", body)["results"]
        assert len(running.post("/rerank", body | {"max_tokens_per_doc": 2})["results"]) == 4
        assert "at most 6" in running.refused("/rerank", {"query": QUERY, "documents": ["a tide"] * 7}, 422)
    ranked = cascade.rank(QUERY, TEXTS[:4])
    assert [row["index"] for row in rows] == [each.corpus_id for each in ranked]


def slow(reranker: Reranker, monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Make every batch of the model take a time; returns the sizes of batches that it runs."""
    runner, sizes = reranker.loaded.engine.runner, []  # type: ignore[attr-defined]
    run = runner.run

    def delayed(layout: Any, **options: Any) -> Any:
        sizes.append(len(layout.lengths) if hasattr(layout, "lengths") else 1)
        time.sleep(seconds)
        return run(layout, **options)

    monkeypatch.setattr(runner, "run", delayed)
    return sizes


def small_batches(path: Path) -> Reranker:
    reranker = Reranker(str(path), dtype="float32", runtime_options={"token_budget": 200})
    reranker.score("a", ["b"])
    return reranker


@pytest.mark.parametrize("how", ["header", "field"])
def test_a_deadline_returns_what_is_scored_and_says_so(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    reranker = small_batches(tiny_reranker)
    slow(reranker, monkeypatch, 0.2)
    documents = [f"The tide number {i} rises." for i in range(60)]
    with served(None, reranker) as running:
        body = {"query": QUERY, "documents": documents} | ({"deadline": 0.5} if how == "field" else {})
        headers = {"X-Request-Timeout": "0.5"} if how == "header" else {}
        response = running.http.post("/v2/rerank", json=body, headers=headers)
    reply = response.json()
    count = len(reply["results"])
    assert 0 < count < 60
    assert reply["degraded"] == f"deadline passed: {count} of 60 documents scored"
    assert reply["meta"]["warnings"] == [reply["degraded"]]
    assert response.headers["X-Degraded"] == reply["degraded"]
    expected = small_batches(tiny_reranker).score(QUERY, documents)
    for row in reply["results"]:
        assert row["relevance_score"] == pytest.approx(float(expected[row["index"]]), rel=1e-4)


def test_a_wrong_deadline_is_refused(models: Served) -> None:
    body = {"query": QUERY, "documents": ["a"]}
    for value in ("soon", "-1", "nan", "inf"):
        response = models.http.post("/rerank", json=body, headers={"X-Request-Timeout": value})
        assert response.status_code == 422, response.text
    assert "deadline is -1" in models.refused("/rerank", body | {"deadline": -1}, 422)


def test_requests_of_several_callers_share_batches(tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = Reranker(str(tiny_reranker), dtype="float32")
    reranker.score("a", ["b"])
    slow(reranker, monkeypatch, 0.3)
    with served(None, reranker) as running:
        before = reranker.loaded.work.batches  # type: ignore[union-attr]
        with ThreadPoolExecutor(12) as pool:
            bodies = [{"query": f"{QUERY} {i}", "documents": TEXTS[:2]} for i in range(12)]
            replies = list(pool.map(lambda body: running.post("/rerank", body), bodies))
        batches = reranker.loaded.work.batches - before  # type: ignore[union-attr]
    assert batches <= 6
    for body, reply in zip(bodies, replies, strict=True):
        expected = reranker.score(body["query"], TEXTS[:2])
        np.testing.assert_allclose(by_index(reply["results"], "relevance_score"), expected, rtol=1e-5)


def test_a_vanished_clients_work_leaves_the_queue(tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = small_batches(tiny_reranker)
    slow(reranker, monkeypatch, 0.1)
    with served(None, reranker) as running:
        done = reranker.loaded.work.items  # type: ignore[union-attr]
        with pytest.raises(Exception, match="timed out"):
            running.http.post(
                "/rerank", json={"query": QUERY, "documents": [f"tide {i}" for i in range(400)]}, timeout=0.5
            )
        wait_for(lambda: running.metric("qwen3_rag_vanished_clients_total") == 1, 5)
        wait_for(lambda: len(reranker.loaded.engine.scheduler) == 0, 5)  # type: ignore[attr-defined]
        wait_for(lambda: running.service.queue.size == 0, 5)
        assert reranker.loaded.work.items - done < 200  # type: ignore[union-attr]
        assert running.post("/rerank", {"query": QUERY, "documents": ["tide"]})["results"]


def test_a_full_queue_is_429_with_the_time_to_come_again(tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = small_batches(tiny_reranker)
    gate = threading.Event()
    gate.set()
    score = reranker.loaded.score
    monkeypatch.setattr(reranker.loaded, "score", lambda *given: (gate.wait(30), score(*given))[1])
    body = {"query": QUERY, "documents": ["tide"]}
    with served(None, reranker, max_queue=3) as running, ThreadPoolExecutor(3) as pool:
        gate.clear()
        waiting = [pool.submit(running.post, "/rerank", body) for _ in range(3)]
        wait_for(lambda: running.service.queue.size == 3)
        response = running.http.post("/v1/rerank", json=body)
        assert response.status_code == 429
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        assert "most that this server takes" in response.json()["error"]["message"]
        assert running.http.get("/health").status_code == 200
        gate.set()
        assert all(future.result()["results"] for future in waiting)
        assert running.post("/rerank", body)["results"]
    assert running.metric("qwen3_rag_refused_total") == 1


def test_fields_that_dify_and_ragflow_send_are_understood(models: Served, reranker: Reranker) -> None:
    body = {"query": QUERY, "documents": TEXTS, "return_documents": "true"}
    threshold = float(np.median(reranker.score(QUERY, TEXTS)))
    rows = models.post("/v1/rerank", body | {"score_threshold": threshold})["results"]
    assert [row["index"] for row in rows] == [
        each.corpus_id for each in reranker.rank(QUERY, TEXTS) if each.score >= threshold
    ]
    assert rows[0]["document"]["text"]
    assert models.post("/v1/embeddings", {"input": "a", "drop_params": True, "encoding_type": "float"})["data"]
    reply = models.post("/v1/tokenize", {"text": "tide <|im_end|>", "model": models.service.embedder.name})  # type: ignore[union-attr]
    assert "".join(reply["token_strings"]).replace("Ġ", " ") == "tide <|im_end|>"


def test_a_start_that_is_cut_leaves_the_whole_end(models: Served, reranker: Reranker) -> None:
    long = " ".join(f"word{i}" for i in range(6000))
    for body in ({"truncation_direction": "Left"}, {"truncate": "START"}):
        response = models.http.post("/rerank", json={"query": QUERY, "documents": [long]} | body)
        assert response.headers["X-Truncated"] == "1"
        assert response.json()["usage"]["total_tokens"] <= 8192
        right = models.post("/rerank", {"query": QUERY, "documents": [long], "max_tokens_per_doc": 30})["usage"]
        left = models.post("/rerank", {"query": QUERY, "documents": [long], "max_tokens_per_doc": 30} | body)["usage"]
        assert left["total_tokens"] <= right["total_tokens"]
    limits = Limits(reranker.spans, None, threading.Event())
    kept = models.service.reranker._cut(QUERY, [long], None, Cut(tokens=30, from_start=True), limits)[0][0]  # type: ignore[union-attr]
    assert long.endswith(kept)
    assert len(reranker.spans(" " + kept)) in (29, 30)


def test_errors_of_tei_have_its_form_from_the_first_check_on(models: Served) -> None:
    response = models.http.post("/rerank", json={"texts": ["a"], "top_n": "x"})
    assert response.status_code == 422
    assert response.json().keys() == {"error", "error_type"}


def test_numbers_of_any_size_come_back_in_documents(models: Served) -> None:
    document = {"text": "tide", "n": 10**30, "f": 1.5}
    rows = models.post("/rerank", {"query": QUERY, "documents": [document], "return_documents": True})["results"]
    assert rows[0]["document"] == document


def test_pairs_share_batches(models: Served, reranker: Reranker) -> None:
    work = reranker.loaded.work
    assert work is not None
    before = work.batches
    models.post("/score", {"text_1": [f"query {i}" for i in range(40)], "text_2": ["a tide"] * 40})
    assert work.batches - before < 20


def test_classify_keeps_a_deadline_and_has_no_fields_that_ids_make_void(models: Served, reranker: Reranker) -> None:
    (group,) = reranker.loaded.format.encode(INSTRUCTIONS["web-search"], [(QUERY, TEXTS)])  # type: ignore[attr-defined]
    reply = models.post("/classify", {"input": group.inputs, "deadline": 0})
    assert reply["data"] == []
    assert reply["degraded"].startswith("deadline passed: 0 of")
    for field in ("instruction", "truncate", "max_tokens_per_doc"):
        assert "unknown field" in models.refused("/classify", {"input": group.inputs, field: "legal"}, 422)


def test_limits_count_instructions_ids_and_pairs(embedder: Any, reranker: Reranker) -> None:
    sentence = "Given a riddle, find its solution " * 10
    with served(embedder, reranker, max_tokens=400) as running:
        texts = {"input": ["tide"] * 20}
        assert running.post("/v1/embeddings", texts)["data"]
        asked = texts | {"instruction": sentence, "input_type": "query"}
        assert "more than 400 tokens" in running.refused("/v1/embeddings", asked, 413)
        ids = embedder.loaded.format.documents(["tide " * 60] * 10).ids
        assert "more than 400 tokens" in running.refused("/v1/embeddings", {"input": ids}, 413)
        pairs = {"text_1": ["tide " * 30] * 10, "text_2": ["moon " * 30] * 10}
        assert "more than 400 tokens" in running.refused("/score", pairs, 413)
        assert "whole inputs already" in running.refused(
            "/v1/embeddings", {"input": ids[:1], "input_type": "query"}, 422
        )
