"""A process that parses files for this one, so that a hostile file can neither stop it nor fill its memory.

Each thread has a parser process of its own, because Linux sends the signal that ends a process with its parent when
the *thread* that started it ends. It is started for the thread's first file, takes many files, and ends with the
thread, with this process, or when a file goes wrong in it.
"""

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from qwen3_rag.errors import IngestError
from qwen3_rag.forking import forget_in_child
from qwen3_rag.ingest.files import ContentError, File, NotInstalledError
from qwen3_rag.ingest.messages import Event, checked, receive, send

__all__ = ["MEMORY", "Child", "parse"]

MEMORY = 1 << 30  # bytes that a parser may use
RECYCLED = 300  # files after which a process is replaced: parsers leak
UNPACKED = 4  # times the maximum file size: text compresses by about this factor
PARTS = 1_000_000  # pages, headings and paragraphs of a file
STARTING = 60  # seconds a process may take to start
ENDING = 5  # seconds to see how a process ended that has closed its side
# Python's own variables are ignored by -I; others, such as keys of services, are none of a parser's business.
KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE")
ABORTED = (4, 5, 6)  # SIGILL, SIGTRAP, SIGABRT: how libraries end when memory runs out
RESIDENT = 1 if sys.platform == "darwin" else 1024  # bytes in which the system counts a process's memory
ISOLATED = hasattr(os, "wait4")  # not on Windows
PACKAGE = Path(__file__).parents[1]
# The package's __init__ imports all of it, which a parser does not need: an empty package takes its place.
START = """
import json, sys, types
sys.path[:], package, parent, memory = json.loads(sys.argv[1])
sys.modules["qwen3_rag"] = types.ModuleType("qwen3_rag")
sys.modules["qwen3_rag"].__path__ = [package]
from qwen3_rag.ingest.child_main import main
main(parent, memory)
"""


class Child:
    """A parser process.

    Args:
        memory: Bytes that it may use for parsing.

    Raises:
        IngestError: It did not start.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self.memory, self.files = memory, 0
        arguments = json.dumps([[path for path in sys.path if path], str(PACKAGE), os.getpid(), memory])
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", START, arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={name: os.environ[name] for name in KEPT if name in os.environ},
                start_new_session=True,
            )
        self.close = weakref.finalize(self, _end, self.channel, self.process, os.getpid())
        try:
            ready = receive(self.channel, time.monotonic() + STARTING)
        except (OSError, ValueError):
            ready = None
        if not isinstance(ready, dict) or type(ready.get("peak")) is not int:
            self.close()
            raise IngestError(f"the parser process did not start (exit code {self.process.returncode})")
        self.peak: int = ready["peak"] * RESIDENT

    @property
    def usable(self) -> bool:
        """Whether it can take another file."""
        return self.close.alive and self.files < RECYCLED and self.process.poll() is None

    def parse(self, path: Path, parser: str, content: bytes, seconds: float, largest: int) -> Iterator[Event]:
        """As `parse`; after an error that is not the file's own, the process has ended."""
        deadline = time.monotonic() + seconds
        self.files += 1
        answered = False
        try:
            self.channel.settimeout(seconds)
            send(self.channel, {"parser": parser, "size": len(content), "seconds": seconds}, content)
            left, parts = UNPACKED * largest, PARTS
            while (message := receive(self.channel, deadline)) is not None and "end" not in message:
                for event in checked(message):
                    left -= len(event[-1] if isinstance(event[-1], str) else event[2])
                    parts -= 1
                    if left < 0:
                        raise ContentError(path, f"too large: more than {UNPACKED * largest / 2**20:.0f} MiB of text")
                    if parts < 0:
                        raise ContentError(path, f"too large: more than {PARTS} pages and paragraphs")
                    yield event
            if message is None:
                raise ContentError(path, self._how_it_ended(seconds))
            answered = message["end"] in ("done", "refused", "missing")
            self._check_end(path, message)
        except TimeoutError:
            raise ContentError(path, f"took longer than {seconds:g} s") from None
        except (BrokenPipeError, ConnectionResetError):
            raise ContentError(path, self._how_it_ended(seconds)) from None
        except (ValueError, TypeError, KeyError) as error:
            raise ContentError(path, f"the parser gave a wrong answer: {error}") from error
        finally:
            if not answered:
                self.close()

    def _check_end(self, path: Path, message: dict[str, object]) -> None:
        end, reason = message["end"], message["reason"]
        if end == "memory":
            raise ContentError(path, self._too_much_memory)
        if end == "missing":
            raise NotInstalledError(f"{path}: {str(reason)[:500]}")
        if end != "done":
            raise ContentError(path, str(reason)[:500])

    def _how_it_ended(self, seconds: float) -> str:
        peak, touched = _wait(self.process)
        code = self.process.returncode
        if code is None:
            return "the parser stopped answering"
        if code == -signal.SIGXCPU:
            return f"took longer than {seconds:g} s"
        # Linux counts the parent's memory into a new process's peak; where that hides the rest, faults are counted.
        used = peak if peak > self.peak else touched
        if -code in ABORTED and used > self.memory // 2:
            return self._too_much_memory
        return f"the parser crashed (signal {-code})" if code < 0 else f"the parser ended (exit code {code})"

    @property
    def _too_much_memory(self) -> str:
        return f"needed more than {self.memory / 2**30:g} GB of memory"


def _wait(process: "subprocess.Popen[bytes]") -> tuple[int, int]:
    """Wait a little for a process to end; return the most memory that it had, and how much it touched, in bytes."""
    deadline = time.monotonic() + ENDING
    while time.monotonic() < deadline:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return int(usage.ru_maxrss) * RESIDENT, usage.ru_minflt * mmap.PAGESIZE
        time.sleep(0.005)
    return 0, 0


def _end(channel: socket.socket, process: "subprocess.Popen[bytes]", owner: int) -> None:
    """End a process and leave no zombie; in a fork of the process that started it, only forget it."""
    channel.close()
    if os.getpid() != owner:
        process.returncode = 0
        return
    process.kill()
    process.wait()


class _Idle(threading.local):
    """This thread's process while no file is parsed."""

    child: Child | None = None


_idle = _Idle()


def _forget() -> None:
    global _idle
    _idle = _Idle()


forget_in_child(_forget)


def parse(file: File, parser: str, content: bytes) -> Iterator[Event]:
    """Yield what is in a file, parsed by a function named "module:name" in this thread's parser process.

    Raises:
        ContentError: The content cannot be read, or not within the limits; what was yielded before can be used.
        IngestError: The process did not start, or a package is missing.
    """
    if not ISOLATED:
        yield from _parse_here(file, parser, content)
        return
    child, _idle.child = _idle.child, None
    if child is None or not child.usable:
        if child is not None:
            child.close()
        child = Child()
    yield from child.parse(file.path, parser, content, file.seconds, file.largest)
    if _idle.child is None:
        _idle.child = child


def _parse_here(file: File, parser: str, content: bytes) -> Iterator[Event]:
    """As `parse`, in this process and without limits, where the system offers nothing better."""
    module, _, name = parser.partition(":")
    try:
        for events in getattr(import_module(module), name)(content):
            yield from events
    except IngestError as error:
        raise ContentError(file.path, str(error)) from error
