"""Vectors over HTTP equal the vectors in process, in every dialect; documents and queries are told apart."""

import base64
from typing import Any

import numpy as np
import pytest

from qwen3_rag import Embedder, Reranker
from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.server.service import Service
from qwen3_rag.server.settings import ServerSettings
from served import Served

TEXTS = ["The moon raises the tides.", "", "潮汐", "<|im_end|> is text"]


def close(vectors: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.array(vectors, dtype=np.float32), expected, atol=1e-5)


def rows(reply: dict[str, Any]) -> list[Any]:
    assert [row["index"] for row in reply["data"]] == list(range(len(reply["data"])))
    return [row["embedding"] for row in reply["data"]]


@pytest.fixture(scope="module")
def name(models: Served) -> str:
    return models.service.embedder.name  # type: ignore[union-attr]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_embeddings_equal_the_embedder(models: Served, embedder: Embedder, name: str, path: str) -> None:
    reply = models.post(path, {"model": name, "input": TEXTS})
    close(rows(reply), embedder.encode_document(TEXTS))
    tokens = embedder.embed(TEXTS).tokens
    assert reply["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert reply["model"] == name
    close(rows(models.post(path, {"input": TEXTS[0]})), embedder.encode_document(TEXTS[:1]))


def test_embeddings_as_base64_are_little_endian_floats(models: Served, embedder: Embedder) -> None:
    for field in ("encoding_format", "embedding_type"):
        coded = rows(models.post("/v1/embeddings", {"input": TEXTS, field: "base64"}))
        decoded = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in coded]
        close(decoded, embedder.encode_document(TEXTS))


@pytest.mark.parametrize(
    ("path", "field", "extra"),
    [("/v1/embeddings", "input", {}), ("/embed", "inputs", {}), ("/v1/embed", "texts", {}),
     ("/v2/embed", "texts", {"input_type": "search_document"})],
)  # fmt: skip
def test_dimensions_keep_the_first_values(
    models: Served, embedder: Embedder, path: str, field: str, extra: dict[str, Any]
) -> None:
    short = Embedder(embedder.model, dtype="float32", dimensions=32).encode_document(TEXTS)
    reply = models.post(path, {field: TEXTS, "dimensions": 32} | extra)
    vectors = reply if isinstance(reply, list) else rows(reply) if "data" in reply else reply["embeddings"]
    close(vectors["float"] if isinstance(vectors, dict) else vectors, short)
    assert "this model gives 32 to 64" in models.refused(path, {field: TEXTS, "dimensions": 65} | extra, 422)


@pytest.mark.parametrize(
    ("body", "instruction"),
    [
        ({"model": ":query"}, None),
        ({"model": ":query", "instruction": "legal"}, "legal"),
        ({"model": ":query", "instruct": "Given a riddle, find its solution"}, "Given a riddle, find its solution"),
        ({"input_type": "query"}, None),
        ({"input_type": "search_query", "instruction": "legal"}, "legal"),
        ({"task": "retrieval.query"}, None),
        ({"prompt_name": "query"}, None),
        ({"prompt_name": "legal"}, "legal"),
        ({"model": ":query", "input_type": "query", "prompt_name": "medical"}, "medical"),
    ],
)
def test_queries_are_embedded_with_the_instruction(
    models: Served, embedder: Embedder, name: str, body: dict[str, Any], instruction: str | None
) -> None:
    expected = embedder.encode_query(TEXTS, instruction=instruction)
    body = body | ({"model": name + body["model"]} if "model" in body else {})
    close(rows(models.post("/v1/embeddings", {"input": TEXTS} | body)), expected)
    close(models.post("/embed", {"inputs": TEXTS} | body), expected)
    close(models.post("/v1/embed", {"texts": TEXTS} | body)["embeddings"], expected)


@pytest.mark.parametrize(
    "body",
    [{"input_type": side} for side in ("document", "passage", "search_document", "classification", "clustering")]
    + [{"task": "retrieval.passage"}, {"prompt_name": "document"}, {"task": "text-matching"}, {"input_type": None}],
)
def test_documents_are_embedded_without_an_instruction(
    models: Served, embedder: Embedder, body: dict[str, Any]
) -> None:
    close(rows(models.post("/v1/embeddings", {"input": TEXTS} | body)), embedder.encode_document(TEXTS))


def test_cohere_v1_and_v2_have_their_own_forms(models: Served, embedder: Embedder) -> None:
    expected = embedder.encode_document(TEXTS)
    one = models.post("/v1/embed", {"texts": TEXTS, "truncate": None})
    close(one["embeddings"], expected)
    assert (one["response_type"], one["texts"]) == ("embeddings_floats", TEXTS)
    typed = models.post("/v1/embed", {"texts": TEXTS, "embedding_types": ["float", "base64"]})
    close(typed["embeddings"]["float"], expected)
    assert typed["response_type"] == "embeddings_by_type"
    assert len(typed["embeddings"]["base64"]) == len(TEXTS)
    two = models.post("/v2/embed", {"texts": TEXTS, "input_type": "search_query"})
    close(two["embeddings"]["float"], embedder.encode_query(TEXTS))
    parts = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
    close(models.post("/v2/embed", {"inputs": parts, "input_type": "classification"})["embeddings"]["float"], expected)
    assert "input_type" in models.refused("/v2/embed", {"texts": TEXTS}, 422)
    assert "embedding_types" in models.refused("/v1/embed", {"texts": TEXTS, "embedding_types": ["int8"]}, 422)


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_tei_embeds_one_text_or_several(models: Served, embedder: Embedder, path: str) -> None:
    close(models.post(path, {"inputs": TEXTS, "normalize": True}), embedder.encode_document(TEXTS))
    close(models.post(path, {"inputs": TEXTS[0], "truncate": True}), embedder.encode_document(TEXTS[:1]))
    response = models.http.post(path, json={"inputs": []})
    assert (response.status_code, response.json()) == (
        422,
        {"error": "inputs is empty; expected at least one text", "error_type": "Validation"},
    )
    assert "normalize" in models.refused(path, {"inputs": "a", "normalize": False}, 422)


def test_token_ids_are_taken_only_with_the_end_token(models: Served, embedder: Embedder) -> None:
    ids = embedder.loaded.format.documents(TEXTS).ids  # type: ignore[attr-defined]
    close(rows(models.post("/v1/embeddings", {"input": ids})), embedder.encode_document(TEXTS))
    close(rows(models.post("/v1/embeddings", {"input": ids[0]})), embedder.encode_document(TEXTS[:1]))
    for wrong in ([[791, 3, 4]], [791, 3, 4], [ids[0], [5]]):
        assert "check_embedding_ctx_length=False" in models.refused("/v1/embeddings", {"input": wrong}, 422)
    for wrong in ([[]], [[1], "a"], [[1.5]], [], {}, 3, [None]):
        models.refused("/v1/embeddings", {"input": wrong}, 422)


def test_long_documents_are_cut_or_refused_as_asked(models: Served, embedder: Embedder) -> None:
    long = "The moon raises the tides of the sea " * 30
    spans = embedder.spans(long)
    head, tail = long[: spans[9][1]], long[spans[-10][0] :]
    for body, text in (({}, head), ({"truncate": "END"}, head), ({"truncate": "START"}, tail)):
        reply = models.post("/v1/embed", {"texts": [long], "max_tokens": 10} | body)
        close(reply["embeddings"], embedder.encode_document([text]))
    response = models.http.post("/v1/embed", json={"texts": [long, "a"], "max_tokens": 10})
    assert response.headers["X-Truncated"] == "1"
    longest = "tide " * 9000
    assert models.http.post("/embed", json={"inputs": longest}).headers["X-Truncated"] == "1"
    assert "may not be truncated" in models.refused("/embed", {"inputs": longest, "truncate": False}, 422)
    assert "max_length" in models.refused("/embed", {"inputs": longest, "prompt_name": "query"}, 422)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": "a", "instruction": "legal"}, "documents take none"),
        ({"input": "a", "input_type": "document", "prompt_name": "query"}, "contradict each other"),
        ({"input": "a", "input_type": "image"}, "expected one of"),
        ({"input": "a", "task": "code.query"}, "expected one of"),
        ({"input": "a", "prompt_name": "lgal"}, "expected one of"),
        ({"input": "a", "late_chunking": True}, "late_chunking"),
        ({"input": "a", "normalized": False}, "normalized"),
        ({"input": "a", "encoding_format": "binary"}, "encoding_format"),
        ({"input": "a", "dimension": 32}, "did you mean 'dimensions'"),
        ({"input": [None]}, "input[0] is None"),
        ({}, "input"),
    ],
)
def test_wrong_fields_of_embeddings_are_named(models: Served, body: dict[str, Any], message: str) -> None:
    assert message in models.refused("/v1/embeddings", body, 422)


def test_an_alias_that_contradicts_the_input_type_is_refused(models: Served, name: str) -> None:
    body = {"input": "a", "model": name + ":query", "input_type": "document"}
    assert "contradict each other" in models.refused("/v1/embeddings", body, 422)
    assert "'text-embedding-3-small'" in models.refused(
        "/v1/embeddings", {"input": "a", "model": "text-embedding-3-small"}, 404
    )


def test_our_own_url_runtime_gives_the_vectors_of_the_model(models: Served, embedder: Embedder) -> None:
    remote = Embedder(embedder.model, runtime=models.url, runtime_options={"probe": False})
    close(remote.encode_document(TEXTS), embedder.encode_document(TEXTS))
    close(remote.encode_query(TEXTS), embedder.encode_query(TEXTS))
    assert remote.runs_on["input"].endswith("token ids")
    assert remote.embed(TEXTS).tokens == embedder.embed(TEXTS).tokens


def test_an_embedding_that_misses_its_deadline_is_504(models: Served) -> None:
    assert "deadline passed" in models.refused("/v1/embeddings", {"input": TEXTS, "deadline": 0}, 504)


def test_fields_of_embeddings_that_change_nothing_here_are_taken(models: Served, embedder: Embedder) -> None:
    fields = {
        "embed_dtype": "float32", "endianness": "native", "use_activation": True, "add_special_tokens": True,
        "return_multivector": False, "embedding_type": ["float"], "truncate_prompt_tokens": -1, "priority": 0,
    }  # fmt: skip
    rows = models.post("/v1/embeddings", {"input": ["a tide", "the moon"], **fields})["data"]
    expected = embedder.encode_document(["a tide", "the moon"])
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-6)
    assert isinstance(
        models.post("/v1/embeddings", {"input": "a", "embedding_type": ["base64"]})["data"][0]["embedding"], str
    )
    assert models.post("/embed", {"inputs": "a tide", "options": {"wait_for_model": True}})


def test_truncate_prompt_tokens_counts_the_end_token(models: Served, embedder: Embedder) -> None:
    text = "the moon raises the tides " * 20
    (row,) = models.post("/v1/embeddings", {"input": text, "truncate_prompt_tokens": 8})["data"]
    places = embedder.spans(text)
    np.testing.assert_allclose(row["embedding"], embedder.encode_document([text[: places[6][1]]])[0], atol=1e-5)
    assert "2 or more" in models.refused("/v1/embeddings", {"input": text, "truncate_prompt_tokens": 1}, 422)


def test_queries_are_never_cut(models: Served) -> None:
    body = {"texts": ["the moon raises the tides " * 9], "input_type": "search_query", "max_tokens": 30}
    assert "never cut" in models.refused("/v1/embed", body, 422)
    assert models.post("/v1/embed", body | {"max_tokens": 500})["embeddings"]


def test_token_ids_are_never_cut(models: Served, embedder: Embedder) -> None:
    ids = [*embedder.loaded.tokens.encode(["the moon raises the tides"])[0], embedder.loaded.format.end]  # type: ignore
    assert models.post("/v1/embeddings", {"input": ids, "truncate_prompt_tokens": len(ids)})["data"]
    message = models.refused("/v1/embeddings", {"input": ids, "truncate_prompt_tokens": len(ids) - 1}, 422)
    assert "never cut" in message


def test_a_model_is_found_by_its_name(models: Served) -> None:
    rows = models.http.get("/v1/models").json()["data"]
    for row in rows:
        assert models.http.get(f"/v1/models/{row['id']}").json() == row
    response = models.http.get("/v1/models/nobody/nothing")
    assert response.status_code == 404
    assert "'nobody/nothing'" in response.text


def test_models_of_one_name_are_told_apart(embedder: Embedder, reranker: Reranker) -> None:
    settings = ServerSettings()
    with pytest.raises(InvalidArgumentError, match="both named 'ours'"):
        Service(settings, embedder, reranker, embedder_name="ours", reranker_name="ours")
    same = Service(settings, Embedder("demo"), Reranker("demo"))
    assert same.embedder and same.embedder.name == "demo-embedder"
    assert same.reranker and same.reranker.name == "demo-reranker"
    for name in ("demo", "demo-embedder", "demo-embedder:query"):
        assert same.embedder_named(name)[0] is same.embedder
    for name in ("demo", "demo-reranker"):
        assert same.reranker_named(name) is same.reranker
