"""Who may call the server, and how much it takes of a request."""

import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from qwen3_rag import Embedder, Reranker
from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.server.bodies import as_json
from qwen3_rag.server.failures import RequestError
from qwen3_rag.server.settings import KEYS, Keys, ServerSettings
from served import Served, served, wait_for

KEY, OTHER_KEY = "k" * 16, "another-key-of-the-server"
BODY = {"query": "tides", "documents": ["the moon"]}
ROUTES = [("GET", path) for path in ("/ready", "/metrics", "/info", "/v1/models", "/openapi.json", "/documents", "/x")]
ROUTES += [("POST", path) for path in ("/rerank", "/embed", "/v1/embeddings", "/search", "/")]


@pytest.fixture(scope="module")
def guarded(embedder: Embedder, reranker: Reranker) -> Iterator[Served]:
    with served(embedder, reranker, key=KEY, keys=Keys([KEY, OTHER_KEY])) as running:
        yield running


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_but_health_needs_a_key(guarded: Served, method: str, path: str) -> None:
    for given in ("", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}"):
        response = guarded.http.request(method, path, json=BODY, headers={"Authorization": given})
        assert response.status_code == 401, given
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert "key is needed" in response.text


def test_any_of_the_keys_is_accepted_and_health_needs_none(guarded: Served) -> None:
    for key in (KEY, OTHER_KEY):
        assert guarded.post("/rerank", BODY, Authorization=f"Bearer {key}")["results"]
        assert guarded.post("/rerank", BODY, Authorization=f"bearer {key}")["results"]
    assert guarded.http.get("/health", headers={"Authorization": ""}).json() == {"status": "ok"}


def test_a_server_without_keys_ignores_an_authorization(models: Served) -> None:
    for given in ("", "Bearer none"):  # Dify sends an empty one
        assert models.post("/rerank", BODY, Authorization=given)["results"]


def test_our_own_client_sends_the_key_of_its_environment(
    guarded: Served, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN3_RAG_API_KEY", KEY)
    remote = Reranker(reranker.model, runtime=guarded.url, runtime_options={"probe": False})
    assert remote.score("tides", ["the moon"])[0] == pytest.approx(float(reranker.score("tides", ["the moon"])[0]))


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:80", 200), ("LOCALHOST:1", 200), ("evil.example", 421), ("", 421),
     ("127.0.0.1.evil.example", 421), ("[::1]:8000", 200)],
)  # fmt: skip
def test_a_foreign_host_is_refused_on_loopback(models: Served, host: str, status: int) -> None:
    response = models.http.post("/rerank", json=BODY, headers={"Host": host})
    assert response.status_code == status


@pytest.mark.parametrize(
    ("origin", "status"), [("https://evil.example", 403), ("null", 403), ("http://localhost:9", 403), (None, 200)]
)
def test_a_foreign_page_is_refused(models: Served, origin: str | None, status: int) -> None:
    headers = {} if origin is None else {"Origin": origin}
    for path in ("/rerank", "/v1/rerank"):
        response = models.http.post(path, json=BODY, headers=headers)
        assert response.status_code == status
        assert "access-control-allow-origin" not in response.headers
    own = models.http.post("/rerank", json=BODY, headers={"Origin": models.url})
    assert own.status_code == 200


def test_an_allowed_page_may_call_with_cors(reranker: Reranker) -> None:
    page = "https://app.example"
    with served(None, reranker, key=KEY, keys=Keys([KEY]), allow_origins=(page,)) as running:
        asked = {"Origin": page, "Access-Control-Request-Method": "POST", "Authorization": ""}
        preflight = running.http.options("/rerank", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == page
        response = running.http.post("/rerank", json=BODY, headers={"Origin": page})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == page
        assert running.http.post("/rerank", json=BODY, headers={"Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json"])
def test_only_json_is_taken(models: Served, kind: str) -> None:
    response = models.http.post("/rerank", content=json.dumps(BODY), headers={"Content-Type": kind})
    assert response.status_code == 415
    assert "expected 'application/json'" in response.json()["error"]["message"]
    response = models.http.post("/rerank", content=b"x", headers={"Content-Type": "application/json",
                                                                  "Content-Encoding": "gzip"})  # fmt: skip
    assert response.status_code == 415


def test_json_with_a_charset_is_json(models: Served) -> None:
    kind = {"Content-Type": "application/JSON; charset=utf-8"}
    assert models.http.post("/rerank", content=json.dumps(BODY), headers=kind).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"query":' * 5000, 400),
        (b'{"query": "\xff\xfe", "documents": ["a"]}', 400),
        (b'{"query": "\\ud800", "documents": ["a"]}', 400),
        (b'{"query": "a", "documents": ["a"], "top_n": NaN}', 400),
        (b'{"query": "a", "documents": ["a"], "deadline": NaN}', 400),
        (b'{"query": "a", "documents": ["a"], "deadline": 1e999}', 422),
        (b'{"query": "a", "documents": ["a"], "top_n": 99999999999999999999999}', 200),
        (b'{"query": "a", "documents": [{"text": "b", "n": NaN}]}', 400),
        (b"null", 422),
        (b'"text"', 422),
        ("{}".encode("utf-16"), 400),
    ],
)
def test_malformed_json_is_refused(models: Served, body: bytes, status: int) -> None:
    response = models.http.post("/rerank", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    if status != 200:
        assert response.json()["error"]["message"]


def test_limits_on_body_texts_and_tokens(embedder: Embedder, reranker: Reranker) -> None:
    with served(embedder, reranker, max_body=10_000, max_texts=5, max_tokens=300) as running:
        assert running.post("/rerank", BODY)["results"]
        assert "at most 10000 bytes" in running.refused("/rerank", BODY | {"query": "x" * 10_000}, 413)
        assert "6 texts; expected at most 5" in running.refused("/rerank", BODY | {"documents": ["a"] * 6}, 413)
        assert "6 texts" in running.refused("/v1/embeddings", {"input": ["a"] * 6}, 413)
        assert "6 texts" in running.refused("/score", {"text_1": "a", "text_2": ["a"] * 6}, 413)
        long = "tide moon " * 100
        assert "more than 300 tokens" in running.refused("/rerank", BODY | {"documents": [long] * 4}, 413)
        assert "more than 300 tokens" in running.refused("/embed", {"inputs": [long] * 4}, 413)
        short = {"documents": [long] * 4, "max_tokens_per_doc": 20}
        assert running.post("/rerank", BODY | short)["results"]
        # Tokens are counted, not characters.
        assert running.post("/embed", {"inputs": ["moon " * 100]})
        assert "more than 300 tokens" in running.refused("/tokenize", {"prompt": long * 2}, 413)


def test_10_000_documents_are_refused_at_once(models: Served) -> None:
    began = time.monotonic()
    assert "10000 texts" in models.refused("/rerank", BODY | {"documents": ["a tide"] * 10_000}, 413)
    assert time.monotonic() - began < 5


def test_a_body_of_100_mb_is_refused_and_not_kept(models: Served) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 2**20

    response = models.http.post("/rerank", content=parts(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80_000  # kilobytes
    declared = {"Content-Type": "application/json", "Content-Length": str(100 * 2**20)}
    with socket.create_connection(("127.0.0.1", int(models.url.rpartition(":")[2])), timeout=20) as connection:
        lines = "".join(f"{name}: {value}\r\n" for name, value in declared.items())
        connection.sendall(f"POST /rerank HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
        assert b"413" in connection.recv(1000)
    assert models.post("/rerank", BODY)["results"]


def test_request_ids_are_kept_or_made(models: Served) -> None:
    response = models.http.post("/rerank", json=BODY, headers={"X-Request-ID": "from-the-balancer:1"})
    assert response.headers["X-Request-ID"] == "from-the-balancer:1"
    for bad in ("a b", "x" * 200, "<script>"):
        response = models.http.post("/rerank", json=BODY, headers={"X-Request-ID": bad})
        assert len(response.headers["X-Request-ID"]) == 32
    assert len(models.http.get("/nothing").headers["X-Request-ID"]) == 32


def test_nothing_of_texts_or_keys_is_logged(guarded: Served, caplog: pytest.LogCaptureFixture) -> None:
    secret = "a-secret-of-the-caller"
    with caplog.at_level(logging.DEBUG):
        guarded.post("/rerank", {"query": secret, "documents": [secret]}, **{"X-Request-ID": "visible"})
        guarded.refused("/rerank", {"query": secret, "documents": [secret], "instruction": f"x{secret}"}, 422)
        guarded.refused("/rerank", {"query": secret, "documents": [], secret: 1}, 422)
        guarded.refused("/v1/embeddings", {"input": secret, "model": secret}, 404)
        guarded.http.get(f"/documents/{secret}?line={secret}")
        guarded.http.get(f"/{secret}", headers={"Authorization": f"Bearer {secret}"})
    text = "\n".join(
        [*(record.getMessage() for record in caplog.records), *map(str, (vars(r) for r in caplog.records))]
    )
    server = [record for record in caplog.records if record.name.startswith("qwen3_rag")]
    assert len(server) == 6
    assert "visible" in text
    logged = "\n".join(str(vars(record)) for record in caplog.records if not record.name.startswith("httpx"))
    assert secret not in logged
    assert KEY not in logged


def test_an_unexpected_error_is_500_without_its_message(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with served(None, reranker) as running:
        text = "the text of a " + "document"

        def broken(*_: Any) -> Any:
            raise RuntimeError(text)

        monkeypatch.setattr(reranker.loaded, "score", broken)
        message = running.refused("/rerank", BODY, 500)
        assert "document" not in message
        assert running.http.get("/health").status_code == 200
        monkeypatch.undo()
        assert running.post("/rerank", BODY)["results"]
    assert text not in caplog.text
    assert "in broken" in caplog.text


def test_settings_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS, raising=False)
    for host in ("0.0.0.0", "192.168.1.2", "::", "example.org"):
        with pytest.raises(InvalidArgumentError, match="a key"):
            ServerSettings(host=host)
        assert ServerSettings(host=host, keys=Keys([KEY])).host_names == ()
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert "localhost" in ServerSettings(host=host).host_names
    for wrong in (
        {"port": 70_000},
        {"max_body": 0},
        {"deadline": 0.0},
        {"body_seconds": -1.0},
        {"allow_origins": ["x"]},
    ):
        with pytest.raises(InvalidArgumentError, match="expected"):
            ServerSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="at least 16"):
        Keys(["short"])
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\n{OTHER_KEY}\n")
    for mode in (0o644, 0o604, 0o620, 0o602):
        file.chmod(mode)
        with pytest.raises(InvalidArgumentError, match="chmod 600"):
            Keys.read(file)
    file.chmod(0o600)
    keys = Keys.read(file)
    assert keys.accept(f"Bearer {OTHER_KEY}".encode())
    monkeypatch.setenv(KEYS, f" {'e' * 20}, {'f' * 20} ")
    assert all(Keys.read(None).accept(b"Bearer " + letter * 20) for letter in (b"e", b"f"))
    assert not Keys.read(None).accept(f"Bearer {KEY}".encode())
    file.write_text("# nothing\n")
    with pytest.raises(InvalidArgumentError, match="has no key"):
        Keys.read(file)
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        Keys.read(tmp_path / "missing")


def test_allowed_hosts_replace_those_of_loopback(reranker: Reranker) -> None:
    with served(None, reranker, allow_hosts=("search.internal",)) as running:
        for host, status in (("search.internal:8000", 200), ("localhost", 421)):
            assert running.http.post("/rerank", json=BODY, headers={"Host": host}).status_code == status


def test_metrics_count_requests_tokens_batches_and_stages(reranker: Reranker) -> None:
    with served(None, reranker) as running:
        tokens = running.post("/rerank", BODY | {"documents": ["a", "b"]})["usage"]["total_tokens"]
        running.refused("/rerank", {}, 422)
        text = running.http.get("/metrics").text
        name = running.service.reranker.name  # type: ignore[union-attr]
        assert running.metric("qwen3_rag_tokens_total", model=name) == tokens
        assert running.metric("qwen3_rag_texts_total", model=name) == 2
    for line in (
        'qwen3_rag_requests_total{route="POST /rerank",status="200"} 1.0',
        'qwen3_rag_requests_total{route="POST /rerank",status="422"} 1.0',
        'qwen3_rag_stage_seconds_count{stage="rerank"} 1.0',
        'qwen3_rag_stage_seconds_count{stage="queue"} 1.0',
        f'qwen3_rag_batches_total{{model="{name}"}}',
        f'qwen3_rag_batch_capacity_total{{model="{name}"}}',
        "qwen3_rag_queue_requests 0.0",
        "qwen3_rag_queue_limit 256.0",
    ):
        assert line in text


def test_unknown_routes_and_methods_are_named_and_share_a_label(models: Served) -> None:
    for i in range(3):
        response = models.http.get(f"/nothing{i}")
        assert response.status_code == 404
        assert "/openapi.json" in response.json()["error"]["message"]
    assert models.http.get("/rerank").status_code == 405
    assert models.http.delete("/v1/models").status_code == 405
    assert models.metric("qwen3_rag_requests_total", route="unknown", status="404") >= 3
    assert "nothing1" not in models.http.get("/metrics").text


def raw(running: Served, data: bytes, wait: float = 20.0) -> bytes:
    """What the server sends on a connection until it closes it."""
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=wait) as connection:
        connection.sendall(data)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


@pytest.fixture
def impatient(reranker: Reranker, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr("qwen3_rag.server.protocol.GRACE", 0.3)
    with served(embedder, reranker, body_seconds=0.5, send_seconds=0.5, max_texts=20_000) as running:
        yield running


@pytest.mark.parametrize(
    "data", [b"", b"POST /rer", b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nX-", b"GET /health HTTP/1.1\r\n"]
)
def test_half_a_request_is_dropped_after_a_time(impatient: Served, data: bytes) -> None:
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        assert raw(impatient, data) == b""
    assert time.monotonic() - began < 5
    assert impatient.post("/rerank", BODY)["results"]


def test_half_a_body_is_408(impatient: Served) -> None:
    head = b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    began = time.monotonic()
    assert b"408" in raw(impatient, head + b'{"query"')[:20]
    assert time.monotonic() - began < 5


def test_a_second_request_that_stops_halfway_is_dropped_too(impatient: Served) -> None:
    began = time.monotonic()
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    try:
        reply = raw(impatient, whole + b"GET /health HTTP/1.1\r\nHost")
    except ConnectionResetError:
        reply = b"200"
    assert b"200" in reply
    assert time.monotonic() - began < 5


def test_a_client_that_does_not_read_is_dropped(impatient: Served) -> None:
    count = 12_000  # a response that no buffer of the system holds
    body = json.dumps({"input": ["tide"] * count}).encode()
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    name = impatient.service.embedder.name  # type: ignore[union-attr]
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", int(impatient.url.rpartition(":")[2])))
        connection.sendall(head.encode() + body)
        wait_for(lambda: impatient.metric("qwen3_rag_texts_total", model=name) == count)
        assert len(impatient.server.server_state.connections) >= 1
        wait_for(lambda: not impatient.server.server_state.connections, 10)
    assert impatient.post("/rerank", BODY)["results"]


def test_headers_without_end_are_refused(impatient: Served) -> None:
    line = b"X-Header: " + b"x" * 1000 + b"\r\n"
    began = time.monotonic()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        assert b"400" in raw(impatient, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + line * 200)[:20]
    assert time.monotonic() - began < 0.5
    assert impatient.http.get("/health").status_code == 200


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"GET /health\n\n", b"\r\n\r\nno method\r\n\r\n",
     b"GARBAGE\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
     b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
     b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_refused(impatient: Served, data: bytes) -> None:
    began = time.monotonic()
    try:
        reply = raw(impatient, data)
    except ConnectionResetError:
        reply = b" 400 "
    assert b" 400 " in reply[:20]
    assert time.monotonic() - began < 0.5  # at once, not when its time is over
    assert impatient.http.get("/health").status_code == 200


def test_no_file_descriptor_is_left_open(models: Served) -> None:
    models.post("/rerank", BODY)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", int(models.url.rpartition(":")[2]))) as connection:
            connection.sendall(b"POST /rerank HTTP/1.1\r\nHost: local")
    wait_for(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before, 10)


@pytest.mark.parametrize(
    ("site", "status"), [("none", 200), ("same-origin", 200), ("cross-site", 403), ("same-site", 403)]
)
def test_foreign_pages_cannot_load_a_response_as_a_script(models: Served, site: str, status: int) -> None:
    response = models.http.get("/v1/models", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"})
    assert response.status_code == status
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    opened = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert models.http.get("/v1/models", headers=opened).status_code == 200, "a link"


def test_an_allowed_page_may_send_the_headers_of_any_client(reranker: Reranker) -> None:
    with served(None, reranker, allow_origins=("https://App.example",)) as running:
        origin = {"Origin": "https://app.example"}
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-stainless-lang"}
        allowed = running.http.options("/v1/rerank", headers=origin | asked)
        assert allowed.status_code == 200
        assert "x-stainless-lang" in allowed.headers["Access-Control-Allow-Headers"]
        reply = running.http.post("/v1/rerank", json=BODY, headers=origin)
        assert reply.headers["Access-Control-Allow-Origin"] == "https://app.example"


def test_refused_requests_count_for_their_route(guarded: Served) -> None:
    before = guarded.metric("qwen3_rag_requests_total", route="POST /rerank", status="401")
    guarded.http.post("/rerank", json=BODY, headers={"Authorization": ""})
    guarded.http.get("/documents/secret", headers={"Authorization": ""})
    guarded.http.request("BREW", "/rerank")
    assert guarded.metric("qwen3_rag_requests_total", route="POST /rerank", status="401") == before + 1
    assert guarded.metric("qwen3_rag_requests_total", route="GET /documents/{id}", status="401")
    text = guarded.http.get("/metrics").text
    assert "secret" not in text
    assert "BREW" not in text


def test_a_slash_at_the_end_of_a_route_is_ignored(models: Served) -> None:
    assert models.post("/v1/rerank/", BODY) == models.post("/v1/rerank", BODY) | {"id": ANY}
    assert models.http.get("/health/").json() == {"status": "ok"}
    assert models.http.get("/v1/models/").json() == models.http.get("/v1/models").json()
    for path, body in (("/documents/", {"documents": [{"text": "a"}]}), ("/documents/delete/", {"ids": ["a"]})):
        assert "no store" in models.http.post(path, json=body).text
    assert models.http.post("/rerank%0A", json=BODY).status_code == 404


def test_a_wrong_method_is_told_the_right_ones(models: Served) -> None:
    response = models.http.request("PUT", "/documents/x", json={})
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "DELETE"}
    assert set(models.http.request("PUT", "/", json={}).headers["Allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize("mark", [b",", b"[", b"{"])
@pytest.mark.parametrize("tail", [b'\\"', b'"', b"\\"])
def test_marks_in_texts_are_counted_in_linear_time(mark: bytes, tail: bytes) -> None:
    body = b'"' + mark * 2_000_000 + b'"' + b'"' + tail * 400_000
    began = time.process_time()
    with pytest.raises(RequestError) as error:
        as_json(body, 1_000_000)
    assert error.value.status == 400, "the marks are in a text, and the rest is not JSON"
    assert time.process_time() - began < 5, "the time of a backtracking pattern grows with the square"


def test_keys_that_a_container_engine_mounts_may_be_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY)
    file.chmod(0o444)
    with pytest.raises(InvalidArgumentError, match="chmod 600"):
        Keys.read(file)
    monkeypatch.setattr(Path, "is_relative_to", lambda self, other: other == "/run/secrets")
    assert Keys.read(file)
    file.chmod(0o446)
    with pytest.raises(InvalidArgumentError, match="change it"):
        Keys.read(file)
