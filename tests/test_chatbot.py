"""The example of a chatbot: it quotes only what stands in its sources, with a chat model and without one."""

import json
import runpy
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from fakes import LengthReranker, WordEmbedder
from qwen3_rag import Document, Pipeline
from qwen3_rag.scores import RerankResult

EXAMPLE = runpy.run_path(str(ROOT / "examples/chatbot.py"))
REPLY = 'It "closes at eight" [1], not "closes at nine" [1]; "the moon" [7].'


class Confident(LengthReranker):
    """Says yes to whatever mentions the library."""

    def read(self, query: str, documents: Any, *arguments: Any, **options: Any) -> RerankResult:
        log_odds = np.array([5.0 if "library" in text else -5.0 for text in documents], np.float32)
        return RerankResult(log_odds, np.zeros(len(documents), np.int64), 0, None)


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline.create(tmp_path / "store", WordEmbedder(), Confident()) as pipeline:
        pipeline.add([Document("Bread rises. The library closes at eight.", "hours"), Document("A moon.", "moon")])
        yield pipeline


class Model(BaseHTTPRequestHandler):
    """A server that speaks as much of OpenAI's protocol as a chat needs."""

    asked: dict[str, Any] = {}  # noqa: RUF012

    def do_POST(self) -> None:
        Model.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"choices": [{"message": {"content": REPLY}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


def test_without_a_model_it_quotes_the_best_sentence(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert EXAMPLE["answer"](pipeline, "when?") == '"The library closes at eight." [1]\n  [1] hours'
    pipeline.delete(["hours"])
    assert EXAMPLE["answer"](pipeline, "when?") == "nothing found"


def test_quotations_of_a_model_that_are_not_in_the_source_are_left_out(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HTTPServer(("127.0.0.1", 0), Model) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        shown = EXAMPLE["answer"](pipeline, "when?")
    assert '"closes at eight" [1]' in shown
    assert "closes at nine" not in shown
    assert '"the moon"' not in shown
    assert shown.count("was left out") == 2
    assert [message["role"] for message in Model.asked["messages"]] == ["system", "user"]
    assert "The library closes at eight." in Model.asked["messages"][1]["content"]
