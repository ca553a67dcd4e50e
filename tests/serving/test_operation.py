"""The command `qwen3-rag serve` as a process: how it starts, what it logs, how it ends."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from qwen3_rag import Document, Embedder, Pipeline
from served import wait_for

KEY = "a-key-for-the-tests"


class Process:
    """A server's process, what it logs, and requests to it."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None, folder: Path | None = None) -> None:
        command = [sys.executable, "-c", "from qwen3_rag.cli import main; main()", "serve", *arguments]
        variables = {name: value for name, value in os.environ.items() if not name.startswith("QWEN3_RAG")}
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=variables | (environment or {}), cwd=folder
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.http = httpx2.Client(timeout=60, headers={"Authorization": f"Bearer {KEY}"})

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    @property
    def url(self) -> str:
        wait_for(lambda: "listening on" in self.log or self.process.poll() is not None)
        found = re.search(r"http://\S+:\d+", self.log)
        assert found, self.log
        return found[0].rstrip('",')

    def ready(self) -> "Process":
        wait_for(lambda: self.http.get(f"{self.url}/ready").status_code == 200)
        return self

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(60)
        self.reader.join(10)
        return status

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        if self.process.stderr:
            self.process.stderr.close()


@contextlib.contextmanager
def process(*arguments: str, **options: Any) -> Iterator[Process]:
    running = Process(*arguments, **options)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def arguments(tiny_embedder: Path, tiny_reranker: Path) -> list[str]:
    models = ["--embedder", str(tiny_embedder), "--reranker", str(tiny_reranker), "--dtype", "float32"]
    return [
        *models,
        "--embedder-name",
        "ours/embedder",
        "--reranker-name",
        "ours/reranker",
        "--no-compile",
        "--port",
        "0",
    ]


def test_it_is_ready_when_the_models_are_loaded_and_ends_on_sigterm(arguments: list[str]) -> None:
    with process(*arguments) as running:
        assert running.http.get(f"{running.url}/health").status_code == 200
        names = [row["id"] for row in running.ready().http.get(f"{running.url}/v1/models").json()["data"]]
        assert names == ["ours/reranker", "ours/embedder", "ours/embedder:query"]
        assert running.end() == 0
    assert "Traceback" not in running.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_end_it_in_the_same_way(arguments: list[str], number: int) -> None:
    # Kubernetes sets these where a service has the command's name.
    links = {"QWEN3_RAG_SERVE_PORT": "tcp://10.0.0.1:80", "QWEN3_RAG_SERVE_SERVICE_HOST": "10.0.0.1",
             "QWEN3_RAG_SERVE_PORT_80_TCP_ADDR": "10.0.0.1", "QWEN3_RAG_SERVE_SERVICE_PORT": "80"}  # fmt: skip
    with process(*arguments, environment=links) as running:
        running.ready().process.send_signal(number)
        assert running.wait() == 0
    assert "Traceback" not in running.log
    assert "interrupted" not in running.log


def test_requests_under_way_are_finished_on_sigterm(arguments: list[str]) -> None:
    with process(*arguments, "--max-texts", "50000") as running:
        url, answers = running.ready().url, []
        body = {"query": "tides", "documents": [f"the moon {i} " * 40 for i in range(1500)]}

        def ask() -> None:
            answers.append(running.http.post(f"{url}/rerank", json=body))

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: "queue_requests 1.0" in running.http.get(f"{url}/metrics").text or answers)
        assert not answers, "the request was too fast for this test"
        assert running.end() == 0
        thread.join()
    assert len(answers[0].json()["results"]) == 1500


def test_what_is_not_finished_in_the_time_to_drain_is_cancelled(arguments: list[str]) -> None:
    with process(*arguments, "--max-texts", "50000", "--drain-seconds", "1") as running:
        url, failures = running.ready().url, []
        body = {"query": "tides", "documents": [f"the moon {i} " * 200 for i in range(4000)]}

        def ask() -> None:
            try:
                failures.append(running.http.post(f"{url}/rerank", json=body).status_code)
            except httpx2.HTTPError as error:
                failures.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: "queue_requests 1.0" in running.http.get(f"{url}/metrics").text)
        began = time.monotonic()
        status = running.end()
        assert time.monotonic() - began < 15
        thread.join()
    assert status == 0
    assert failures
    assert failures[0] != 200


def test_the_log_is_one_json_object_a_line_without_texts(arguments: list[str]) -> None:
    secret = "secret-of-the-caller"
    with process(*arguments, "--log-json", environment={"QWEN3_RAG_SERVER_KEYS": KEY}) as running:
        url = running.ready().url
        for body in ({"query": secret, "documents": [secret]}, {"query": secret}, {secret: secret}):
            running.http.post(f"{url}/rerank", json=body, headers={"X-Request-ID": "id-1"})
        running.http.get(f"{url}/{secret}?{secret}={secret}")
        assert running.http.get(f"{url}/info", headers={"Authorization": ""}).status_code == 401
        assert running.end() == 0
    records = [json.loads(line) for line in running.lines]
    (scored,) = [each for each in records if each.get("request_id") == "id-1" and each["status"] == 200]
    assert scored["route"] == "POST /rerank"
    assert (scored["texts"], scored["level"], scored["logger"]) == (1, "info", "qwen3_rag.server")
    assert scored["bytes"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", scored["time"])
    assert secret not in running.log
    assert KEY not in running.log


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected --embedder, --reranker or --store"),
        (["--embedder", "demo", "--host", "0.0.0.0"], "expected 127.0.0.1, or a key"),
        (["--embedder", "demo", "--host", "1.2.3.4", "--key-file", "KEYS"], "cannot listen on port"),
        (["--embedder", "nonsense"], "unknown embedder"),
        (["--embedder", "demo", "--embedder-name", "ours:query"], "expected one without ':query'"),
        (["--embedder", "demo", "--reranker-name", "ours"], "no reranker is served"),
        (["--embedder", "demo", "--port", "99999"], "port is 99999"),
        (["--embedder", "demo", "--key-file", "missing"], "cannot be read"),
        (["--embedder", "demo", "--key-file", "OPEN"], "chmod 600"),
        (["--store", "nothing-here"], "nothing-here"),
        (["--store", "nothing-here", "--device", "cuda:7"], "--device passed without --embedder and --reranker"),
        (["--embedder", "demo", "--runtime", "fast"], "runtime"),
    ],
)
def test_a_wrong_start_is_one_line_and_no_server(tmp_path: Path, options: list[str], message: str) -> None:
    for name, mode in (("KEYS", 0o600), ("OPEN", 0o644)):
        (tmp_path / name).write_text(KEY)
        (tmp_path / name).chmod(mode)
    with process(*options, folder=tmp_path) as running:
        assert running.wait() in (1, 2)
    (line,) = [line for line in running.lines if line.startswith("error:")]
    assert message in line
    assert "Traceback" not in running.log


def test_a_port_in_use_is_named(arguments: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with process(*arguments[:-1], port) as running:
            assert running.wait() == 2
    assert f"cannot listen on port {port} of 127.0.0.1: Address already in use" in running.log


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path, tiny_embedder: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_embedder.iterdir():
        (broken / file.name).write_bytes(
            file.read_bytes()[:200] if file.suffix == ".safetensors" else file.read_bytes()
        )
    with process("--embedder", str(broken), "--port", "0") as running:
        assert running.wait() == 1
    assert [line for line in running.lines if line.startswith("error:")]


def test_a_store_of_another_embedder_is_refused(tmp_path: Path, tiny_embedder: Path, tiny_reranker: Path) -> None:
    with Pipeline.create(tmp_path / "store", Embedder(str(tiny_embedder), dtype="float32"), None) as pipeline:
        pipeline.add([Document("The moon raises the tides.")])
    with process("--store", str(tmp_path / "store"), "--embedder", str(tiny_reranker), "--port", "0") as running:
        assert running.wait() == 1
    assert "error:" in running.log
    assert str(tiny_reranker) in running.log


def test_options_come_from_a_file_and_the_environment(tmp_path: Path, tiny_reranker: Path) -> None:
    settings = f'[serve]\nreranker = "{tiny_reranker}"\nport = 0\ncompile = false\nmax-texts = 3\nkey-file = "keys"\n'
    (tmp_path / "qwen3-rag.toml").write_text(settings)
    (tmp_path / "keys").write_text(KEY)
    (tmp_path / "keys").chmod(0o600)
    with process(folder=tmp_path, environment={"QWEN3_RAG_SERVE_RERANKER_NAME": "of-the-environment"}) as running:
        url = running.ready().url
        response = running.http.post(f"{url}/rerank", json={"query": "a", "documents": ["b"] * 4})
        assert response.status_code == 413
        assert running.http.get(f"{url}/v1/models").json()["data"][0]["id"] == "of-the-environment"
        assert running.http.get(f"{url}/v1/models", headers={"Authorization": ""}).status_code == 401


def test_two_callers_at_ipv6_and_ipv4(arguments: list[str]) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with process(*arguments, "--host", "::1") as running:
        assert running.ready().http.get(f"{running.url}/v1/models").status_code == 200
        assert "[::1]" in running.url


def test_sigterm_while_the_models_are_being_loaded_is_no_crash(arguments: list[str]) -> None:
    for seconds in (0.2, 0.6, 1.0, 1.5):
        with process(*arguments) as running:
            assert running.url
            time.sleep(seconds)
            assert running.end() == 0, running.log
        assert "Traceback" not in running.log
