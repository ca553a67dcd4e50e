"""The running server: its socket, its log, its end."""

import json
import logging
import signal
import socket
import time

import uvicorn

from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.server.application import application
from qwen3_rag.server.protocol import timed
from qwen3_rag.server.service import Service

__all__ = ["JsonLines", "run"]

KEEP_ALIVE = 75  # seconds that an idle connection stays open: longer than clients keep theirs
CONNECTIONS = 4096
BACKLOG = 2048
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


def run(service: Service) -> None:
    """Serve until SIGTERM or SIGINT; requests that are there then are finished first.

    Raises:
        InvalidArgumentError: The port is in use, or the address is not of this machine.
        Exception: The models cannot be loaded.
    """
    settings = service.settings
    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    config = uvicorn.Config(
        application(service, failed),
        http=timed(settings.body_seconds, settings.send_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        limit_concurrency=CONNECTIONS,
        backlog=BACKLOG,
    )
    server = uvicorn.Server(config)
    listening = _listen(settings.host, settings.port)
    # Uvicorn raises the signal again when it has finished; ending as asked is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    logger.info("listening on http://%s:%d", host, listening.getsockname()[1])
    with listening:
        server.run(sockets=[listening])
    if failures:
        raise failures[0]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise InvalidArgumentError(
            f"cannot listen on port {port} of {host}: {error.strerror or error}; expected a free port of this "
            "machine: --port 0 takes any"
        ) from None
