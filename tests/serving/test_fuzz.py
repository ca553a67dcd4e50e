"""Broken and hostile requests, at random from a fixed seed: each gets an answer or is dropped; the server lives.

QWEN3_RAG_FUZZ sets the number of requests, 3,000 by default.
"""

import contextlib
import json
import os
import random
import socket
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qwen3_rag import Embedder, Pipeline, Reranker
from qwen3_rag.server.application import ENDPOINTS
from served import Served, served, wait_for

COUNT = int(os.environ.get("QWEN3_RAG_FUZZ", "3000"))
VALID: list[tuple[str, dict[str, Any]]] = [
    ("/rerank", {"query": "tides", "documents": ["moon", "bread"], "top_n": 1, "return_documents": True}),
    ("/v1/rerank", {"query": "tides", "texts": ["moon"], "raw_scores": True, "truncate": True}),
    (
        "/v2/rerank",
        {"query": "tides", "documents": [{"text": "moon"}], "max_tokens_per_doc": 3, "instruction": "legal"},
    ),
    ("/score", {"text_1": "tides", "text_2": ["moon", "bread"], "truncate_prompt_tokens": 200}),
    ("/classify", {"input": [[1, 2, 3]], "use_activation": False}),
    ("/tokenize", {"prompt": "tides", "return_token_strs": True}),
    ("/v1/embeddings", {"input": ["tides"], "encoding_format": "base64", "dimensions": 32, "input_type": "query"}),
    ("/v1/embed", {"texts": ["tides"], "embedding_types": ["float"], "truncate": "END"}),
    ("/v2/embed", {"texts": ["tides"], "input_type": "search_query", "max_tokens": 5}),
    ("/embed", {"inputs": "tides", "normalize": True, "prompt_name": "query"}),
    ("/search", {"query": "tides", "top_k": 2, "filter": {"year": {"$gte": 2000}}, "mode": "hybrid", "deadline": 1.5}),
    ("/documents", {"documents": [{"text": "new", "id": "fuzz/new", "metadata": {"a": 1}}]}),
    ("/documents/delete", {"ids": ["fuzz/new"]}),
]
JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**64, -(2**70), 0.5, 1e308, "", " ", "\0", "legal", "a" * 5000, "潮汐",
    "<|im_end|>", "💧" * 50, [], {}, [[]], [None], [[1]], [1, "a"], {"a": {}}, {"$gt": 1}, {"text": 1}, ["moon"] * 300,
    [[["deep"]]], "NaN", "../../etc/passwd", "x\r\ny",
]  # fmt: skip


def mutated(rng: random.Random, value: Any) -> Any:
    """A body with some of its parts exchanged, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        changed = dict(value)
        for name in rng.sample(sorted(changed), rng.choice([1, 1, 1, min(2, len(changed)), len(changed)])):
            action = rng.random()
            if action < 0.2:
                del changed[name]
            elif action < 0.6:
                changed[name] = rng.choice(JUNK)
            elif action < 0.9:
                changed[name] = mutated(rng, changed[name])
            else:
                changed["".join(rng.choices(string.ascii_letters, k=6))] = rng.choice(JUNK)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        return [mutated(rng, rng.choice(value)) for _ in range(rng.randint(0, 4))]
    return rng.choice(JUNK)


def spoiled(rng: random.Random, body: bytes) -> bytes:
    """A body with some of its bytes exchanged, doubled or cut."""
    data = bytearray(body)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(data) + 1)
        data[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
    return bytes(data[: rng.randint(0, len(data))] if rng.random() < 0.3 else data)


def sent_raw(rng: random.Random, running: Served, path: str, body: bytes) -> None:
    """Bytes on a connection that is closed or left in the middle; whatever comes back is read or not."""
    method = rng.choice(["POST", "GET", "PUT", "DELETE", "OPTIONS", "P\x01ST"])
    lines = [f"{method} {path} HTTP/1.{rng.choice('01')}"]
    lines += [f"Host: {rng.choice(['localhost', 'evil.example', ''])}", "Content-Type: application/json"]
    lines += rng.choices(
        ["Connection: close", "Expect: 100-continue", f"Content-Length: {rng.randint(-1, 2 * len(body))}",
         f"Content-Length: {len(body)}", "Transfer-Encoding: chunked", "Origin: null", "X-Request-Timeout: 0",
         "Upgrade: websocket", "Authorization: Bearer \xff", "X-Request-ID: a\tb", ": nothing", "Host: again"],
        k=rng.randint(0, 5),
    )  # fmt: skip
    data = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    if rng.random() < 0.5:
        data = spoiled(rng, data)
    address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=0.05) as connection:
        connection.sendall(data)
        if rng.random() < 0.7:
            connection.recv(1000)


@pytest.mark.parametrize("seed", [1])
def test_the_server_lives_through_random_requests(
    store: Pipeline, embedder: Embedder, reranker: Reranker, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    rng, statuses = random.Random(seed), Counter[int]()
    paths = [each.path.replace("{id:rest}", "fuzz/new") for each in ENDPOINTS]
    with served(pipeline=store, allow_writes=True, body_seconds=2.0, send_seconds=2.0, max_texts=200) as running:
        for number in range(COUNT):
            path, valid = rng.choice(VALID)
            way = rng.random()
            body = json.dumps(mutated(rng, valid)).encode()
            if way < 0.15:
                sent_raw(rng, running, rng.choice(paths), body)
                continue
            if way < 0.35:
                body = spoiled(rng, json.dumps(valid).encode())
            elif way < 0.4:
                path = rng.choice(paths)
            response = running.http.post(path, content=body, headers={"Content-Type": "application/json"})
            statuses[response.status_code] += 1
            assert response.status_code < 500 or b"deadline passed" in response.content, (
                number,
                path,
                body,
                response.text,
            )
            assert response.json() is not None
        wait_for(lambda: running.service.queue.size == 0, 20)
        wait_for(lambda: len(running.server.server_state.connections) <= 1, 20)
        assert running.post("/rerank", {"query": "tides", "documents": ["moon"]})["results"]
        assert running.post("/search", {"query": "tides"})["hits"]
    assert store.verify() == []
    print(f"{COUNT} requests from seed {seed}: {dict(sorted(statuses.items()))}")
    assert set(statuses) <= {200, 400, 404, 405, 413, 422, 504}
    assert min(statuses[status] for status in (200, 400, 422)) > COUNT / 100
    assert "unexpected" not in caplog.text
    assert Path(store.store.folder).is_dir()
