"""Connections that are slow, odd or hostile, and requests that come before the server is ready or when it is busy."""

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from qwen3_rag import Embedder, Reranker
from qwen3_rag.server.running import Server
from qwen3_rag.server.service import Service
from qwen3_rag.server.settings import Keys, ServerSettings
from served import Served, served, wait_for

BODY = {"query": "tides", "documents": ["the moon"]}
JSON = "Content-Type: application/json"


def connect(running: Served, timeout: float = 20.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=timeout)


def message(path: str, body: bytes, *lines: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def whole(path: str, value: Any, *lines: str) -> bytes:
    body = json.dumps(value).encode()
    return message(path, body, JSON, f"Content-Length: {len(body)}", *lines)


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one response."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        assert part, data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    (length,) = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    while len(body) < length:
        body += connection.recv(65536)
    text = body.decode()
    return int(head.split()[1]), json.loads(text) if text.startswith("{") else {"text": text}


def test_requests_before_the_models_are_loaded_are_503(
    embedder: Embedder, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, gate = Service(ServerSettings(port=0, compile=False), embedder, reranker), threading.Event()
    load = service.load
    monkeypatch.setattr(service, "load", lambda: (gate.wait(30), load()))
    server = Server(service)
    thread = threading.Thread(target=server.work)
    thread.start()
    running = Served(server, service)
    try:
        for path, body in (("/rerank", BODY), ("/classify", {"input": [[1]]}), ("/embed", {"inputs": "a"}),
                           ("/tokenize", {"prompt": "a"})):  # fmt: skip
            response = running.http.post(path, json=body)
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        for path in ("/ready", "/v1/models", "/info"):
            assert running.http.get(path).status_code == 503
        for path in ("/health", "/metrics", "/openapi.json"):
            assert running.http.get(path).status_code == 200
        gate.set()
        wait_for(lambda: running.http.get("/ready").status_code == 200)
        assert running.post("/rerank", BODY)["results"]
    finally:
        gate.set()
        running.http.close()
        server.should_exit = True
        thread.join()


def test_an_offer_of_http_2_is_not_taken_and_the_body_is_read(models: Served) -> None:
    offers = [("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
              ("Connection: upgrade", "upgrade:h2c", "http2-settings : x")]  # fmt: skip
    for offer in offers:
        with connect(models) as connection:
            connection.sendall(whole("/rerank", BODY, *offer))
            status, reply = answer(connection)
            assert status == 200, reply
            assert len(reply["results"]) == 1


@pytest.mark.parametrize(
    "lines",
    [("Host: evil.example",), ("Authorization: Bearer a", "Authorization: Bearer b"), (JSON,),
     ("Origin: http://localhost", "Origin: https://evil.example")],
)  # fmt: skip
def test_headers_that_occur_twice_are_refused(models: Served, lines: tuple[str, ...]) -> None:
    with connect(models) as connection:
        connection.sendall(whole("/rerank", BODY, *lines))
        status, reply = answer(connection)
    assert status == 400
    assert "more than once" in reply["message"]


def test_trailers_do_not_replace_headers(models: Served) -> None:
    body = json.dumps(BODY).encode()
    chunked = b"%x\r\n%s\r\n0\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n" % (len(body), body)
    with connect(models) as connection:
        head = "POST /rerank HTTP/1.1\r\nHost: evil.example\r\nContent-Type: text/plain\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunked)
        assert answer(connection)[0] == 421
    with connect(models) as connection:  # and a request with trailers is answered
        connection.sendall(message("/rerank", chunked, JSON, "Transfer-Encoding: chunked"))
        assert answer(connection)[0] == 200


def test_endless_trailers_are_refused(models: Served) -> None:
    line = b"X-Trailer: " + b"x" * 8000 + b"\r\n"
    with connect(models) as connection:
        connection.sendall(message("/rerank", b"2\r\n{}\r\n0\r\n", JSON, "Transfer-Encoding: chunked"))
        with pytest.raises(OSError), connection:  # reset or broken pipe
            for _ in range(2000):
                connection.sendall(line)
                time.sleep(0.001)
    assert models.http.get("/health").status_code == 200


def test_pipelined_requests_are_answered_in_order(models: Served) -> None:
    bodies = [{"query": "tides", "documents": ["moon"] * count} for count in (1, 3, 2)]
    data = b"".join(whole("/score", {"text_1": body["query"], "text_2": body["documents"]}) for body in bodies)
    second = data.index(b"POST", 1)
    # Cut everywhere in and around the second request's head, and in the last body.
    for cut in [*range(second - 3, second + 130), len(data) - 10]:
        with connect(models) as connection:
            connection.sendall(data[:cut])
            time.sleep(0.002)
            connection.sendall(data[cut:])
            received = b""
            while received.count(b'"usage"') < 3:
                received += connection.recv(65536)
        assert [part.count(b'"index"') for part in received.split(b"HTTP/1.1 200")[1:]] == [1, 3, 2], cut


def test_an_idle_connection_that_sends_line_ends_is_dropped(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen3_rag.server.protocol.GRACE", 0.3)
    with served(None, reranker, body_seconds=0.5) as running, connect(running) as connection:
        connection.sendall(whole("/rerank", BODY))
        assert answer(connection)[0] == 200
        connection.sendall(b"\r\n")
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
        assert time.monotonic() - began < 10


def test_a_client_that_reads_slowly_but_steadily_gets_all(embedder: Embedder) -> None:
    count = 12_000
    with served(embedder, send_seconds=1.0, max_texts=count) as running, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.connect(("127.0.0.1", int(running.url.rpartition(":")[2])))
        connection.settimeout(20)
        connection.sendall(whole("/v1/embeddings", {"input": ["tide"] * count}, "Connection: close"))
        size, began = 0, time.monotonic()
        while part := connection.recv(262_144):
            size += len(part)
            if time.monotonic() - began < 3.5:  # more than three times as long as it may take nothing
                time.sleep(0.05)
        assert time.monotonic() - began > 3
    assert size > 5_000_000


def test_a_place_is_kept_until_the_work_of_a_vanished_client_has_ended(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    score = reranker.loaded.score
    with served(None, reranker, max_queue=2) as running:
        monkeypatch.setattr(reranker.loaded, "score", lambda *given: (gate.wait(30), score(*given))[1])
        for _ in range(2):
            with connect(running) as connection:
                connection.sendall(whole("/rerank", BODY))
                wait_for(lambda: running.service.queue.size > 0)
        wait_for(lambda: running.metric("qwen3_rag_vanished_clients_total") == 2)
        assert running.service.queue.size == 2
        running.refused("/rerank", BODY, 429)
        gate.set()
        wait_for(lambda: running.service.queue.size == 0)
        assert running.post("/rerank", BODY)["results"]


def test_a_deadline_counts_also_while_others_work(tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = Reranker(str(tiny_reranker), dtype="float32", runtime_options={"token_budget": 30})
    reranker.score("a", ["b"])
    run = reranker.loaded.engine.runner.run  # type: ignore[attr-defined]
    monkeypatch.setattr(
        reranker.loaded.engine.runner,  # type: ignore[attr-defined]
        "run",
        lambda layout, **options: (time.sleep(0.05), run(layout, **options))[1],
    )
    with served(None, reranker) as running, ThreadPoolExecutor(80) as pool:
        others = [pool.submit(running.post, "/rerank", {"query": f"q{i}", "documents": ["a", "b"]}) for i in range(80)]
        wait_for(lambda: running.service.queue.size >= 70)
        began = time.monotonic()
        response = running.http.post("/rerank", json=BODY | {"deadline": 0.2})
        assert time.monotonic() - began < 2
        assert response.json()["degraded"].startswith("deadline passed: 0 of 1")
        for other in others:
            other.result()


def test_bodies_that_are_too_large_together_are_refused(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3_rag.server.queue.BODIES", 1)
    with served(None, reranker, max_body=100_000) as running, connect(running) as connection:
        connection.sendall(message("/rerank", b"x" * 60_000, JSON, "Content-Length: 90000"))
        wait_for(lambda: running.service.queue.bytes == 60_000)
        assert "too large together" in running.refused("/rerank", BODY | {"query": "x" * 60_000}, 429)
        assert running.post("/rerank", BODY)["results"]
        connection.close()
        wait_for(lambda: running.service.queue.bytes == 0)


def test_a_million_wrong_values_are_one_short_error(store: Any) -> None:
    with served(pipeline=store, allow_writes=True) as running:
        assert running.refused("/documents/delete", {"ids": [1] * 300_000}, 422).startswith("ids[0] is 1")
        wrong = BODY | {"rank_fields": [1] * 300_000}
        assert running.refused("/rerank", wrong, 422).startswith("rank_fields[0] is 1")
        assert "values; expected fewer" in running.refused("/rerank", {"documents": [[]] * 1_500_000}, 413)
        name = "x" * 100_000
        assert len(running.refused("/rerank", BODY | {name: 1}, 422)) < 1000
        assert len(running.refused("/rerank", BODY | {"model": name}, 404)) < 1000


def test_a_text_far_longer_than_the_model_reads_gives_the_scores_of_its_beginning(
    models: Served, embedder: Embedder, reranker: Reranker
) -> None:
    long = "The moon raises the tides of the sea. " * 100_000
    beginning = long[:400_000]
    limit = reranker.document_budget("tides")
    assert len(reranker.spans(" " + beginning)) > limit
    row = models.post("/rerank", {"query": "tides", "documents": [long]})["results"][0]
    assert row["relevance_score"] == pytest.approx(float(reranker.score("tides", [beginning])[0]), rel=1e-5)
    vectors = models.post("/embed", {"inputs": long})
    np.testing.assert_allclose(vectors[0], embedder.encode_document(beginning), atol=1e-5)


def test_a_head_may_come_in_any_two_pieces(models: Served) -> None:
    body = b'{"prompt":\n"tide"\n}\n\n'
    data = b"\r\n" + message("/tokenize", body, JSON, f"Content-Length: {len(body)}")
    for cut in range(1, len(data)):
        with connect(models) as connection:
            connection.sendall(data[:cut])
            time.sleep(0.001)
            connection.sendall(data[cut:])
            assert answer(connection)[0] == 200, cut


def test_expect_100_continue_is_answered(models: Served) -> None:
    body = json.dumps(BODY).encode()
    with connect(models) as connection:
        connection.sendall(message("/rerank", b"", JSON, f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert answer(connection)[0] == 200


def test_a_job_that_fails_after_its_client_left_logs_no_texts(models: Served, caplog: pytest.LogCaptureFixture) -> None:
    secret = "a-secret-query"
    gone = models.metric("qwen3_rag_vanished_clients_total")
    body = {"input": [f"{secret} " * 20_000] * 3, "input_type": "query"}
    with caplog.at_level("DEBUG"):
        while models.metric("qwen3_rag_vanished_clients_total") == gone:
            with connect(models) as connection:
                connection.sendall(whole("/v1/embeddings", body))
                wait_for(lambda: models.service.queue.size > 0)
        wait_for(lambda: models.service.queue.size == 0)
        import gc

        gc.collect()
        time.sleep(0.1)
    assert secret not in caplog.text
    assert "never retrieved" not in caplog.text


def test_cutting_keeps_the_deadline_and_ends_with_its_client(models: Served) -> None:
    texts = [f"{i} " + "The moon raises the tides of the sea. " * 3000 for i in range(100)]
    began = time.monotonic()
    reply = models.post("/rerank", {"query": "q", "documents": texts, "truncate": "START", "deadline": 0.1})
    assert time.monotonic() - began < 3
    assert reply["degraded"].startswith("deadline passed: ")
    assert len(reply["results"]) < 100
    with connect(models) as connection:
        connection.sendall(whole("/rerank", {"query": "q", "documents": texts, "truncate": "START"}))
        wait_for(lambda: models.service.queue.size == 1)
    began = time.monotonic()
    wait_for(lambda: models.service.queue.size == 0)
    assert time.monotonic() - began < 3
    assert models.service.queue.bytes == 0


def test_a_place_is_given_back_if_no_thread_can_start(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(None, reranker) as running:

        def refuse(*_: Any) -> Any:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(running.service.threads, "submit", refuse)
        running.refused("/rerank", BODY, 500)
        assert running.service.queue.size == 0
        monkeypatch.undo()
        assert running.post("/rerank", BODY)["results"]


def test_the_last_bytes_of_a_response_that_nobody_reads_are_dropped(embedder: Embedder) -> None:
    """Also a rest that is too small for the transport to say that it waits."""
    with served(embedder, send_seconds=0.5, max_texts=30_000) as running:
        count = 500
        for asked in range(40):
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.connect(("127.0.0.1", int(running.url.rpartition(":")[2])))
                connection.sendall(whole("/v1/embeddings", {"input": ["tide"] * count, "encoding_format": "base64"}))
                answered = partial(running.metric, "qwen3_rag_request_seconds_count", route="POST /v1/embeddings")
                wait_for(lambda answered=answered, asked=asked: answered() > asked)
                (one,) = running.server.server_state.connections
                rest = one.transport.get_write_buffer_size()
                if 0 < rest < 60_000:
                    wait_for(lambda: not running.server.server_state.connections, 5)
                    return
                count += 1500 if not rest else -(rest - 30_000) // 400  # bytes of a vector
            wait_for(lambda: not running.server.server_state.connections, 5)
    pytest.skip("no response left a small rest on this system")


def test_the_oldest_idle_connection_makes_room_for_a_new_one(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen3_rag.server.running.CONNECTIONS", 16)
    with served(None, reranker) as running, contextlib.ExitStack() as stack:
        used, silent, half = (stack.enter_context(connect(running)) for _ in range(3))
        used.sendall(whole("/rerank", BODY))
        assert answer(used)[0] == 200
        half.sendall(b"POST /rerank HTTP/1.1\r\nHost:")
        idle = [stack.enter_context(connect(running)) for _ in range(20)]
        for connection in (silent, half):
            assert connection.recv(100) == b"", "the oldest are closed"
        wait_for(lambda: len(running.server.server_state.connections) <= 16)  # one more while it is being made
        for connection in (used, idle[-1], stack.enter_context(connect(running))):
            connection.sendall(whole("/rerank", BODY))
            assert answer(connection)[0] == 200


def test_a_connect_is_refused(models: Served) -> None:
    with connect(models) as connection:
        connection.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_the_address_of_all_interfaces_takes_both_versions(reranker: Reranker) -> None:
    with served(None, reranker, host="::", key="k" * 16, keys=Keys(["k" * 16])) as running:
        port = running.url.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            assert httpx2.get(f"http://{host}:{port}/health").status_code == 200
