"""The running server: its socket, its log, its end."""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import uvicorn

from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.server.application import application
from qwen3_rag.server.protocol import timed
from qwen3_rag.server.service import Service

__all__ = ["JsonLines", "Server", "run"]

KEEP_ALIVE = 75  # seconds that an idle connection stays open: longer than clients keep theirs
CONNECTIONS, OTHER_FILES = 4096, 200
BACKLOG = 2048
LOADING_SECONDS = 2.0  # that the end waits for models that are being loaded
logger = logging.getLogger("qwen3_rag.server")


class JsonLines(logging.Formatter):
    """Log records as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as JSON."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Server(uvicorn.Server):
    """A server that listens at once; `url` is its address.

    Args:
        service: What it serves.

    Raises:
        InvalidArgumentError: The port is in use, or the address is not of this machine.
    """

    def __init__(self, service: Service) -> None:
        self.failure: Exception | None = None
        self.loading = threading.Thread(target=self._load, name="qwen3-rag-loading", daemon=True)
        super().__init__(_config(service, self.loading.start))
        self.service, settings = service, service.settings
        self.listening = _listen(settings.host, settings.port)
        bare = settings.host.strip("[]")
        host = f"[{bare}]" if ":" in bare else bare
        self.url = f"http://{host}:{self.listening.getsockname()[1]}"

    def _load(self) -> None:
        try:
            self.service.load()
        except Exception as error:  # noqa: BLE001  # raised by `work`
            self.failure, self.should_exit = error, True

    def work(self, before_waiting: Callable[[], None] = lambda: None) -> None:
        """Serve until `should_exit`, SIGTERM or SIGINT; requests that are there then are finished first.

        Args:
            before_waiting: Called when no more requests come, and only a write may be under way.

        Raises:
            Exception: The models cannot be loaded.
        """
        with self.listening:
            self.run(sockets=[self.listening])
        before_waiting()
        with self.service.being_written:  # its client may have an error, but the store keeps what has begun
            pass
        if self.failure is not None:
            raise self.failure

    @property
    def still_loads(self) -> bool:
        """Whether the models are still being loaded, after a while of waiting for it."""
        self.loading.join(LOADING_SECONDS)
        return self.loading.is_alive()


def run(service: Service) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP. Errors as of `Server`."""
    server = Server(service)

    def end(*_: object) -> None:
        server.should_exit = True

    # Before uvicorn's own handlers are there, and when it raises the signal again: ending as asked is no failure.
    names = [name for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    numbers = [number for name in names if signal.getsignal(number := getattr(signal, name)) is not signal.SIG_IGN]
    for number in numbers:
        signal.signal(number, end)

    def before_waiting() -> None:
        for number in numbers:  # once more ends the process
            signal.signal(number, signal.SIG_DFL)
        if service.being_written.locked():
            logger.info("a write is being finished")

    logger.info("listening on %s", server.url)
    server.work(before_waiting)
    if server.still_loads:
        # Ending the interpreter under a thread that is inside PyTorch would abort the process.
        sys.stderr.flush()
        os._exit(0)


def _config(service: Service, load: Callable[[], None]) -> uvicorn.Config:
    settings = service.settings
    return uvicorn.Config(
        application(service, load),
        http=timed(settings.body_seconds, settings.send_seconds, _connections()),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        backlog=BACKLOG,
    )


def _connections() -> int:
    """How many connections there may be; each takes a file descriptor, and the store and the models take some."""
    try:
        import resource
    except ImportError:  # Windows
        return CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(CONNECTIONS, soft - OTHER_FILES))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bare = host.strip("[]")
        both = bare == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((bare, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        raise InvalidArgumentError(
            f"cannot listen on port {port} of {host}: {error.strerror or error}; expected a free port of this "
            "machine: --port 0 takes any"
        ) from None
