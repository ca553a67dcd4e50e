"""Real clients, unchanged from PyPI and npm, give the scores and vectors of the models (see `clients/`)."""

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_rag import Embedder, Reranker
from qwen3_rag.server.settings import Keys
from served import Served, served, wait_for

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    "openai_client.py": ".clients/bin/python",
    "cohere_v2.py": ".clients/bin/python",
    "litellm_client.py": ".clients/bin/python",
    "huggingface_client.py": ".clients/bin/python",
    "haystack_client.py": ".clients/bin/python",
    "cohere_v1.py": ".clients-older/bin/python",
    "langchain_cohere_client.py": ".clients-older/bin/python",
    "langchain_openai_client.py": ".clients-older/bin/python",
    "llama_index_client.py": ".clients-older/bin/python",
    "openai_client.mjs": ".clients-npm/node_modules/.bin/node",
    "cohere_client.mjs": ".clients-npm/node_modules/.bin/node",
}
KEY = "a-key-for-the-clients"
QUERY = "what raises the tides"
TEXTS = ["The moon raises the tides.", "Bread rises with yeast.", "潮汐是由月球引起的。", "Gravity attracts bodies."]
# What their users would see of a refusal; clients that do not show a server's message are named.
REFUSALS = ("no-such-model", "no-such-prompt", "check_embedding_ctx_length=False", "key is needed")


@pytest.fixture(scope="module", params=["without a key", "with a key"])
def server(request: pytest.FixtureRequest, embedder: Embedder, reranker: Reranker) -> Iterator[Served]:
    keys = {"key": KEY, "keys": Keys([KEY])} if request.param == "with a key" else {}
    with served(embedder, reranker, **keys) as running:
        yield running


def program_of(script: str) -> Path:
    program = ROOT / SCRIPTS[script]
    if not program.exists():
        pytest.skip(f"{SCRIPTS[script].split('/')[0]} is not there: `make clients` makes it")
    return program


def report_of(script: str, server: Served, **more: Any) -> dict[str, dict[str, Any]]:
    program = program_of(script)
    service = server.service
    request = {
        "base": server.url,
        "key": KEY if service.settings.keys else None,
        "embedder": service.embedder.name,  # type: ignore[union-attr]
        "reranker": service.reranker.name,  # type: ignore[union-attr]
        "query": QUERY,
        "documents": TEXTS,
        **more,
    }
    path = Path(__file__).parent / "clients" / script
    done = subprocess.run([program, path], input=json.dumps(request), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_client_gets_the_scores_and_vectors_of_the_models(
    server: Served, embedder: Embedder, reranker: Reranker, script: str
) -> None:
    report = report_of(script, server, dimensions=32)
    scores, kinds = reranker.score(QUERY, TEXTS), [call["kind"] for call in report.values()]
    assert {"scores"} & set(kinds) or {"documents", "query"} & set(kinds)
    for label, call in report.items():
        short = label.endswith("dimensions")
        if call["kind"] == "scores":
            np.testing.assert_allclose(call["scores"], scores, rtol=1e-4, err_msg=label)
        elif call["kind"] in ("documents", "query"):
            model = Embedder(embedder.model, dtype="float32", dimensions=32) if short else embedder
            query = call["kind"] == "query"
            expected = model.encode_query([QUERY]) if query else model.encode_document(TEXTS)
            np.testing.assert_allclose(call["vectors"], expected, atol=1e-5, err_msg=label)
        elif call["kind"] == "error":
            assert any(part in call["message"] for part in REFUSALS), (label, call)
        else:
            assert call["kind"] == "info", (label, call)


@pytest.mark.parametrize(
    ("script", "retries"), [("openai_client.py", False), ("cohere_v1.py", True), ("openai_client.mjs", False)]
)
def test_a_busy_server_is_asked_again_or_its_message_shown(
    embedder: Embedder, reranker: Reranker, script: str, retries: bool
) -> None:
    program_of(script)
    with served(embedder, reranker, max_queue=1) as running:
        queue = running.service.queue
        queue.size = 1
        answered = threading.Event()

        def release() -> None:
            wait_for(lambda: queue.refused or answered.is_set(), seconds=300)
            queue.size = 0

        thread = threading.Thread(target=release)
        thread.start()
        try:
            first = next(iter(report_of(script, running).values()))
        finally:
            answered.set()
            thread.join()
    if retries:
        assert first["kind"] == "scores"
    else:
        assert first["status"] == 429
        assert "the most that this server takes" in first["message"]
