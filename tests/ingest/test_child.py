"""The parser process: its limits, its end, and what it may tell its parent."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.samples import write_pdf
from qwen3_rag.errors import IngestError
from qwen3_rag.ingest import child as child_module
from qwen3_rag.ingest import messages
from qwen3_rag.ingest.child import Child, parse
from qwen3_rag.ingest.files import ContentError, File
from qwen3_rag.ingest.messages import Event, checked, messages_of
from qwen3_rag.ingest.readers import read

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
TESTS = str(Path(__file__).parents[1])


# Parsers for the tests; they run in the parser process.
def says(content: bytes) -> Iterator[list[Event]]:
    yield [("page", content.decode())]


def hangs(content: bytes) -> Iterator[list[Event]]:
    yield [("page", "first")]
    while True:
        pass


def crashes(content: bytes) -> Iterator[list[Event]]:
    yield [("page", "first")]
    os.kill(os.getpid(), signal.SIGSEGV)


def hoards(content: bytes) -> Iterator[list[Event]]:
    yield [("page", "first")]
    yield [("page", str(len(bytearray(1 << 31))))]


def floods(content: bytes) -> Iterator[list[Event]]:
    while True:
        yield [("page", "x" * 100_000)]


def lies(content: bytes) -> Iterator[list[Event]]:
    yield [("exec", "x")]


def limits(content: bytes) -> Iterator[list[Event]]:
    import resource

    names = ("RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_AS")
    values = {name: resource.getrlimit(getattr(resource, name))[1] for name in names}
    answer = {
        **values,
        "session": os.getsid(0) == os.getpid(),
        "open": len(list(Path("/proc/self/fd").iterdir())) - 1,
        "numpy": "numpy" in sys.modules,
        "secret": os.environ.get("SECRET_KEY"),
    }
    yield [("page", json.dumps(answer))]


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts its parser process, which can import the parsers above."""
    monkeypatch.syspath_prepend(TESTS)
    monkeypatch.setattr(child_module, "_idle", child_module._Idle())
    yield
    if (child := child_module._idle.child) is not None:
        child.close()


def ask(parser: str, content: bytes = b"x", path: Path = Path("a.pdf"), **options: Any) -> list[Event]:
    return list(parse(File(path, **options), f"ingest.test_child:{parser}", content))


def until_error(parser: str, **options: Any) -> tuple[list[Event], ContentError]:
    """What comes before an error, and the error."""
    seen: list[Event] = []
    with pytest.raises(ContentError) as caught:
        for event in parse(File(Path("a.pdf"), **options), f"ingest.test_child:{parser}", b"x"):
            seen.append(event)
    return seen, caught.value


def idle() -> Child:
    child = child_module._idle.child
    assert child is not None
    return child


def children() -> list[int]:
    """Processes that this one started, zombies included."""
    listing = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listing.stdout.splitlines() if not line.endswith(" ps")]


def test_a_parser_process_takes_one_file_after_another() -> None:
    assert ask("says", b"one") == [("page", "one")]
    first = idle().process.pid
    assert ask("says", "zwei \u00fc".encode()) == [("page", "zwei \u00fc")]
    assert idle().process.pid == first


def test_a_parser_process_has_limits_and_nothing_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "open sesame")
    ((_, text),) = ask("limits")
    answer = json.loads(text)
    assert (answer["RLIMIT_CORE"], answer["RLIMIT_FSIZE"], answer["RLIMIT_NOFILE"]) == (0, 0, 64)
    assert 1 << 30 < answer["RLIMIT_AS"] < 3 << 29
    assert (answer["session"], answer["numpy"], answer["secret"]) == (True, False, None)
    assert answer["open"] <= 5, "standard streams and its side of the channel"


@pytest.mark.parametrize(
    ("parser", "reason"),
    [
        ("hangs", "took longer than 1 s"),
        ("crashes", "the parser crashed (signal 11)"),
        ("hoards", "needed more than 1 GB of memory"),
    ],
)
def test_a_parser_process_that_fails_says_why_and_what_it_read_is_kept(parser: str, reason: str) -> None:
    seen, error = until_error(parser, seconds=1)
    assert (seen, error.reason, str(error)) == ([("page", "first")], reason, f"a.pdf: {reason}")
    assert ask("says", b"next") == [("page", "next")], "the next file gets a new process"


def test_a_parser_process_that_is_killed_while_idle_costs_no_file() -> None:
    ask("says")
    os.kill(idle().process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, idle().process.pid, os.WEXITED | os.WNOWAIT)
    assert ask("says", b"next") == [("page", "next")]


def test_a_parser_process_that_never_stops_answering_is_stopped() -> None:
    seen, error = until_error("floods", largest=1 << 20)
    assert error.reason == "too large: more than 4 MiB of text"
    assert sum(len(text) for _, text in seen) <= 4 << 20


def test_a_parser_process_that_answers_with_endless_empty_pages_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "PARTS", 100)
    seen, error = until_error("floods")
    assert (error.reason, len(seen)) == ("too large: more than 100 pages and paragraphs", 100)


def test_a_parser_process_that_lies_is_not_believed() -> None:
    with pytest.raises(ContentError, match="the parser gave a wrong answer: wrong values"):
        ask("lies")


@pytest.mark.parametrize(
    "message",
    [
        3,
        None,
        [],
        {},
        {"events": "page"},
        {"events": [["page"]]},
        {"events": [["page", 3]]},
        {"events": [["page", "a", "b"]]},
        {"events": [["outline", True, "a", 1]]},
        {"events": [["heading", 0, "a"]]},
        {"events": [["block", "poem", "a"]]},
        {"events": [["exec", "a"]]},
        {"events": [[["page"], "a"]]},
    ],
)
def test_checked_refuses_what_is_not_a_list_of_events(message: object) -> None:
    with pytest.raises(ValueError, match=r"not a|wrong values"):
        checked(message)


def test_receive_refuses_long_and_deep_messages() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall((1 << 31).to_bytes(4, "big"))
        with pytest.raises(ValueError, match="a message of 2147483648 bytes"):
            messages.receive(ours)
        theirs.sendall((100_000).to_bytes(4, "big") + b"[" * 100_000)
        with pytest.raises(ValueError, match=r"JSON|Expecting"):
            messages.receive(ours)


def test_long_texts_travel_in_parts_that_fit_a_message() -> None:
    text = "\x01" * 1_000_000  # six bytes each as JSON
    parts = list(messages_of([("block", "code", text), ("page", "end")]))
    assert all(len(json.dumps(part)) < messages.LARGEST for part in parts)
    events = [event for part in parts for event in part["events"]]
    assert "".join(event[-1] for event in events[:-1]) == text
    assert [event[0] for event in events] == ["more"] * 7 + ["block", "page"]


def test_parser_processes_are_replaced_after_some_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "RECYCLED", 2)
    pids = []
    for _ in range(4):
        ask("says")
        pids.append(idle().process.pid)
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_no_process_zombie_or_descriptor_is_left() -> None:
    ask("says")
    idle().close()
    gc.collect()
    descriptors, processes = len(list(Path("/proc/self/fd").iterdir())), children()
    for parser in ("says", "crashes", "says", "hangs"):
        try:
            ask(parser, seconds=1)
        except IngestError:
            continue
    if (child := child_module._idle.child) is not None:
        child.close()
    assert (len(list(Path("/proc/self/fd").iterdir())), children()) == (descriptors, processes)


def test_each_thread_has_a_process_that_ends_with_it() -> None:
    before, pids = children(), []

    def work() -> None:
        ask("says")
        pids.append(idle().process.pid)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert len(set(pids)) == 3
    assert children() == before


def test_an_interrupted_file_leaves_no_process_with_an_unfinished_answer() -> None:
    events = parse(File(Path("a.pdf")), "ingest.test_child:floods", b"x")
    next(events)
    events.close()
    assert ask("says", b"next") == [("page", "next")]


def test_a_parser_process_ends_with_its_parent() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import os\nfrom ingest import test_child\n"
        "test_child.ask('says'); print(test_child.idle().process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, TESTS], capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    raise AssertionError("still there")


def test_a_fork_neither_uses_nor_ends_its_parents_parser_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import os\nfrom ingest import test_child\n"
        "test_child.ask('says'); mine = test_child.idle().process.pid\n"
        "if (pid := os.fork()) == 0:\n"
        "    test_child.ask('says'); other = test_child.idle().process.pid != mine\n"
        "    sys.exit(0 if other else 1)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "test_child.ask('says'); print(code, test_child.idle().process.pid == mine)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, TESTS], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0 True\n", "")


def test_a_process_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "START", "import sys; sys.exit(3)")
    with pytest.raises(IngestError, match=r"the parser process did not start \(exit code 3\)"):
        ask("says")


def test_without_processes_files_are_parsed_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(child_module, "ISOLATED", False)
    write_pdf(tmp_path / "a.pdf", ["one page"])
    assert [parsed.document.text for parsed in read(tmp_path / "a.pdf")] == ["one page"]
    write_pdf(tmp_path / "b.pdf", ["secret"], password="open sesame")
    with pytest.raises(ContentError, match=r"b\.pdf: encrypted: it needs a password"):
        list(read(tmp_path / "b.pdf"))
    assert child_module._idle.child is None
