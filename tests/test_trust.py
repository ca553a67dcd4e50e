"""Nothing a store remembers is contacted over the network unless the caller says so, and no key is ever its choice."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from qwen3_rag import Cascade, Document, Embedder, Pipeline, Reranker
from qwen3_rag.cli import app
from qwen3_rag.errors import UntrustedStoreError

SECRET = "the-victims-secret"
DOCUMENTS = [Document("The pump is bled at the upper valve.", "pump"), Document("A bucket of sand.", "bucket")]


class Model(BaseHTTPRequestHandler):
    """Gives any input a vector, and any document a score; keeps what it was sent."""

    seen: list[tuple[str, str | None]]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        self.reply({}, 404)

    def do_POST(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/embeddings":
            rows = [{"index": i, "embedding": vector(text)} for i, text in enumerate(body["input"])]
            return self.reply({"data": rows})
        if self.path == "/v1/rerank":
            scores = [{"index": i, "relevance_score": 0.5} for i in range(len(body["documents"]))]
            return self.reply({"results": scores})
        return self.reply({}, 404)

    def reply(self, answer: Any, status: int = 200) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def vector(text: object) -> list[float]:
    seed = int.from_bytes(hashlib.sha256(str(text).encode()).digest()[:4], "big")
    return np.random.default_rng(seed).normal(size=16).tolist()


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    seen: list[tuple[str, str | None]] = []
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Model,), {"seen": seen}))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", seen
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def foreign(server: tuple[str, list], tmp_path: Path, tiny_embedder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store from somebody else, whose models are servers and whose key has the name of the victim's secret."""
    url, seen = server
    options = {"probe": False, "api_key_env": "AWS_SECRET_ACCESS_KEY"}
    embedder = Embedder(str(tiny_embedder), runtime=url, runtime_options=options)
    reranker = Reranker("nobody/has-this", runtime=url, runtime_options={**options, "endpoint": "rerank"})
    with Pipeline.create(tmp_path / "s", embedder, reranker) as pipeline:
        pipeline.add(DOCUMENTS)
        maker, second = pipeline.store.meta("embedder"), pipeline.store.meta("reranker")
        assert "api_key_env" not in json.dumps([maker, second])
        # As earlier versions stored it, or as somebody may write it by hand.
        maker["arguments"]["runtime_options"]["api_key_env"] = "AWS_SECRET_ACCESS_KEY"
        second["runtime_options"]["api_key_env"] = "AWS_SECRET_ACCESS_KEY"
        pipeline.store.set_meta("embedder", maker)
        pipeline.store.set_meta("reranker", second)
    seen.clear()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return tmp_path / "s"


def test_a_store_that_names_servers_sends_nothing_to_them(foreign: Path, server: tuple[str, list]) -> None:
    url, seen = server
    with Pipeline.open(foreign) as pipeline:
        with pytest.raises(UntrustedStoreError, match=f"the embedder .* runs at {url}, an address that only the store"):
            pipeline.search("pump")
        with pytest.raises(UntrustedStoreError, match="the reranker that this store remembers"):
            pipeline.search("pump", mode="lexical")
        with pytest.raises(UntrustedStoreError, match="embedder"):
            pipeline.add([Document("new")])
        assert [hit.document_id for hit in pipeline.search("pump", mode="lexical", rerank=False)] == ["pump"]
        assert pipeline.info()["embedder"]["runs_on"] == {"device": url, "trusted": "no"}
        assert pipeline.verify() == []
        assert pipeline.delete(["bucket"]) == 1
    assert seen == []


def test_trusted_servers_are_used_and_never_sent_a_key_that_the_store_names(
    foreign: Path, server: tuple[str, list], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, seen = server
    with Pipeline.open(foreign, trust_urls=True) as pipeline:
        assert len(pipeline.search("pump")) == 2
    assert {path for path, _ in seen} >= {"/v1/embeddings", "/v1/rerank"}
    assert {key for _, key in seen} == {None}
    seen.clear()
    monkeypatch.setenv("QWEN3_RAG_API_KEY", "my-key-for-model-servers")
    with Pipeline.open(foreign, trust_urls=True) as pipeline:
        pipeline.search("pump")
    assert {key for _, key in seen} == {"Bearer my-key-for-model-servers"}


def test_models_passed_by_the_caller_need_no_trust(
    foreign: Path, server: tuple[str, list], tiny_embedder: Path, tiny_reranker: Path
) -> None:
    url, seen = server
    mine = Embedder(str(tiny_embedder), runtime=url, runtime_options={"probe": False})
    with Pipeline.open(foreign, embedder=mine) as pipeline:
        assert len(pipeline.search("pump", rerank=False)) == 2
        with pytest.raises(UntrustedStoreError):
            pipeline.search("pump")
    with Pipeline.open(foreign, mine, Reranker(str(tiny_reranker))) as pipeline:
        assert len(pipeline.search("pump")) == 2
    assert {path for path, _ in seen}.isdisjoint({"/v1/rerank", "/v1/score", "/classify"})
    assert SECRET not in str(seen)


def test_a_server_in_any_stage_of_a_cascade_is_not_trusted(
    tmp_path: Path, server: tuple[str, list], tiny_embedder: Path, tiny_reranker: Path
) -> None:
    url, seen = server
    hidden = Reranker("nobody/has-this", runtime=url, runtime_options={"probe": False})
    inner = Cascade([(Reranker(str(tiny_reranker)), 50), (hidden, 10)])
    with Pipeline.create(tmp_path / "s", str(tiny_embedder), Cascade([(inner, 60), (hidden, 5)])) as pipeline:
        pipeline.add(DOCUMENTS)
    with Pipeline.open(tmp_path / "s") as pipeline, pytest.raises(UntrustedStoreError, match=url):
        pipeline.search("pump")
    assert seen == []


def test_the_command_line_trusts_a_stores_servers_only_if_told(foreign: Path, server: tuple[str, list]) -> None:
    _, seen = server
    told = CliRunner().invoke(app, ["search", str(foreign), "pump"])
    assert told.exit_code == 1
    assert "open the store with trust_urls=True (--trust-urls)" in " ".join(told.output.split())
    assert seen == []
    told = CliRunner().invoke(app, ["search", str(foreign), "pump", "--trust-urls", "--json"])
    assert told.exit_code == 0, told.output
    assert '"pump"' in told.output
    assert SECRET not in str(seen)
