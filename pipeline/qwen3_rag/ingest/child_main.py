"""The parser process: takes one file after another from its parent and answers with what is in it.

The files may be hostile, so limits are set before a parser is imported. This limits memory, time and files; it is no
protection against code that a file manages to run.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from qwen3_rag.errors import IngestError, MissingDependencyError
from qwen3_rag.ingest.messages import Event, messages_of, receive, receive_bytes, send

__all__ = ["Parser", "main"]

# Yields a file's parts; each list, such as a page, is sent at once, so that it is kept if the next one fails.
Parser = Callable[[bytes], Iterator[list[Event]]]
FILES = 64  # open files
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def main(parent: int, memory: int) -> None:
    """Answer the process `parent` on standard input until it closes, with `memory` bytes for parsing."""
    channel = socket.socket(fileno=os.dup(0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            return
    _limit(memory)
    # Linux counts the memory of the process that started this one too.
    send(channel, {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss})
    _silence()
    while (request := receive(channel)) is not None:
        content = receive_bytes(channel, request["size"])
        _limit_time(request["seconds"])
        end = _answer(channel, request["parser"], content)
        del content
        send(channel, end)


def _silence() -> None:
    """Standard error is open until here, so that it shows why the process could not start."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _limit(memory: int) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: FILES,
        resource.RLIMIT_AS: _mapped() + memory,
    }
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(name, (value, value))
        except (ValueError, OSError):  # macOS refuses some
            continue


def _mapped() -> int:
    """Bytes of address space in use."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  # pathlib takes longer to import
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _limit_time(seconds: float) -> None:
    """End this process after some seconds of work from now, even if its parent does not."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(usage.ru_utime + usage.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _answer(channel: socket.socket, parser: str, content: bytes) -> dict[str, Any]:
    """Send what is in a file; return the last message, which says what went wrong."""
    module, _, name = parser.partition(":")
    try:
        parse: Parser = getattr(import_module(module), name)
        for events in parse(content):
            for message in messages_of(events):
                send(channel, message)
    except MissingDependencyError as error:
        return {"end": "missing", "reason": str(error)}
    except IngestError as error:
        return {"end": "refused", "reason": str(error)}
    except MemoryError:
        return {"end": "memory", "reason": ""}
    except OSError as error:
        if isinstance(error, BrokenPipeError | ConnectionResetError):
            raise
        return {"end": "refused", "reason": f"damaged: {str(error)[:200]}"}
    except Exception as error:  # noqa: BLE001  # parsers may raise anything on a damaged file
        return {"end": "refused", "reason": f"damaged: {type(error).__name__}: {str(error)[:200]}"}
    return {"end": "done", "reason": ""}
