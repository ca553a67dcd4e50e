"""A running server for tests, in a thread of this process, with real connections."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from qwen3_rag.server.running import Server
from qwen3_rag.server.service import Service
from qwen3_rag.server.settings import ServerSettings

SECONDS = 60.0  # most that a test waits


class Served:
    """A server's address, and requests to it."""

    def __init__(self, server: Server, service: Service, key: str | None = None) -> None:
        self.server, self.service, self.url = server, service, server.url
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx2.Client(base_url=self.url, headers=headers, timeout=SECONDS)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        """The JSON of a response, which must be a success."""
        response = self.http.post(path, json=body, headers=headers)
        assert response.status_code == 200, response.text
        return response.json()

    def refused(self, path: str, body: Any, status: int, **headers: str) -> str:
        """The message of a response with this status."""
        response = self.http.post(path, json=body, headers=headers)
        assert response.status_code == status, response.text
        error = response.json()["error"]
        return str(error if isinstance(error, str) else error["message"])

    def metric(self, name: str, **labels: str) -> float:
        """A counter's value; 0 if it was never counted."""
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def served(
    *models: Any, key: str | None = None, pipeline: Any = None, reranker_name: str | None = None, **settings: Any
) -> Iterator[Served]:
    """A server of an embedder and a reranker, or of a store, until the block ends."""
    settings = {"port": 0, "compile": False} | settings
    service = Service(ServerSettings(**settings), *models, pipeline=pipeline, reranker_name=reranker_name)
    server = Server(service)
    thread = threading.Thread(target=server.work)
    thread.start()
    running = Served(server, service, key)
    try:
        wait_for(lambda: service.loaded)
        yield running
    finally:
        running.http.close()
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive(), "the server does not end"


def wait_for(condition: Any, seconds: float = SECONDS) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
