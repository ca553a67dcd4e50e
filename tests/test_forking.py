"""What can work after a fork works; what cannot is a typed error at once. Each case in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

HEAD = """
import asyncio, os, sys, threading, time, warnings
warnings.simplefilter("ignore")
sys.path[:0] = sys.argv[2:]
from pathlib import Path
import numpy as np
from index.test_store import row, write
from qwen3_rag import Document, Embedder, Pipeline, Reranker
from qwen3_rag.index.retriever import Retriever
from qwen3_rag.index.store import Store
from qwen3_rag.index.upkeep import Upkeep

folder = Path(sys.argv[1])

def forked(work):
    "Run work in a forked child; what it printed is shown, and -1 if it hangs."
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            print("child:", work())
        except BaseException as error:
            print("child:", type(error).__name__, error)
        sys.stdout.flush()
        os._exit(0)
    for _ in range(300):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.1)
    os.kill(pid, 9)
    print("child: hangs")

def many(count, dimensions=8):
    rows = np.random.default_rng(0).normal(size=(count, dimensions)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
"""


def run(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", HEAD + code, str(folder), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_a_store_that_searched_before_a_fork_searches_in_the_child(tmp_path: Path, mode: str) -> None:
    out = run(
        f"""
from qwen3_rag.index.store import PassageRow
store = Store.create(folder / "s", {{}}, dimensions=256)
rows = many(40_000, 256)
store.write((Document(f"text {{i}}", str(i)), [PassageRow(0, 9, i.to_bytes(8, "big"), r)]) for i, r in enumerate(rows))
retriever = Retriever(store)
search = lambda: [hit.document_id for hit, _ in retriever.search("text 7", rows[7], 1, {mode!r}, None)]
print("parent:", search())
forked(search)
print("parent:", search())
""",
        tmp_path,
    )
    assert out.splitlines() == ["parent: ['7']", "child: ['7']", "parent: ['7']"]


def test_an_approximate_index_is_searched_in_a_forked_child(tmp_path: Path) -> None:
    out = run(
        """
from qwen3_rag.index.store import PassageRow
store = Store.create(folder / "s", {}, dimensions=8)
rows = many(2000)
store.write((Document(f"text {i}", str(i)), [PassageRow(0, 9, i.to_bytes(8, "big"), r)]) for i, r in enumerate(rows))
Upkeep(store).optimize("ivf", 0.5, None)
retriever = Retriever(store)
search = lambda: [hit.document_id for hit, _ in retriever.search("", rows[7], 1, "dense", None)]
print("parent:", search(), retriever.view().dense.lists is not None)
forked(search)
""",
        tmp_path,
    )
    assert out.splitlines() == ["parent: ['7'] True", "child: ['7']"]


def test_commits_of_parent_child_and_others_are_all_kept(tmp_path: Path) -> None:
    out = run(
        """
store = Store.create(folder / "s", {}, dimensions=8)
write(store, "first")
def work():
    for k in range(5):
        write(store, f"child {k}")
        other = Store.open(folder / "s")
        write(other, f"other {k}")
        other.close()
    return store.count(), store.verify()
forked(work)
write(store, "parent")
print("parent:", store.count(), store.verify())
store.close()
again = Store.open(folder / "s")
print("again:", again.count(), again.verify(), all(again.get([f"child {k}" for k in range(5)])))
""",
        tmp_path,
    )
    lines = ["child: ((11, 11), [])", "parent: (12, 12) []", "again: (12, 12) [] True"]
    assert out.splitlines() == lines


def test_a_daemon_goes_on_with_the_store_its_parent_closed(tmp_path: Path) -> None:
    out = run(
        """
store = Store.create(folder / "s", {}, dimensions=8)
write(store, "first")
read, wrote = os.pipe()
if os.fork():
    store.close()
    os.write(wrote, b"closed")
    os.wait()
    again = Store.open(folder / "s")
    print("again:", again.count(), again.verify())
else:
    os.read(read, 6)
    write(store, "second")
    store.close()
    os._exit(0)
""",
        tmp_path,
    )
    assert out.splitlines() == ["again: (2, 2) []"]


def test_a_fork_waits_for_calls_of_other_threads_and_refuses_the_store_where_they_last(tmp_path: Path) -> None:
    out = run(
        """
import qwen3_rag.index.pool as pool
pool.QUIESCE = 0.5
store = Store.create(folder / "s", {}, dimensions=8)
write(store, "first")
inside, leave = threading.Event(), threading.Event()
def hold(seconds):
    with store.snapshot():
        inside.set()
        leave.wait(seconds)
threading.Thread(target=hold, args=(0.2,)).start()
inside.wait()
forked(store.count)
inside.clear()
thread = threading.Thread(target=hold, args=(60,))
thread.start()
inside.wait()
forked(store.count)
forked(lambda: Store.open(folder / "s").count())
leave.set()
thread.join()
print("parent:", store.count())
forked(store.count)
""",
        tmp_path,
    )
    lines = out.splitlines()
    assert lines[0] == "child: (1, 1)"
    for line in lines[1:3]:
        assert line.startswith("child: StoreError")
        assert "was in use by another thread when this process was forked" in line
    assert lines[3:] == ["parent: (1, 1)", "child: (1, 1)"]


def test_a_model_loaded_before_a_fork_is_an_error_in_the_child_and_one_loaded_after_it_works(
    tmp_path: Path, tiny_reranker: Path, tiny_embedder: Path
) -> None:
    out = run(
        f"""
late = Reranker({str(tiny_reranker)!r}, dtype="float32")
texts = ["a b c " * 200] * 20
forked(lambda: late.log_odds("query", texts).shape)
warm = Reranker({str(tiny_reranker)!r}, dtype="float32")
warm.log_odds("query", texts)
forked(lambda: warm.log_odds("query", texts).shape)
forked(lambda: late.log_odds("query", texts).shape)
pipeline = Pipeline.create(folder / "s", Embedder({str(tiny_embedder)!r}), None)
pipeline.add([Document("a pump")])
forked(lambda: pipeline.search("pump"))
forked(lambda: [hit.text for hit in pipeline.search("pump", mode="lexical")])
forked(lambda: [hit.text for hit in asyncio.run(pipeline.asearch("pump", mode="lexical"))])
print("parent:", len(pipeline.search("pump")), warm.log_odds("query", texts).shape)
""",
        tmp_path,
    )
    lines = out.splitlines()
    assert lines[0] == "child: (20,)"
    for line in lines[1:4]:
        assert line.startswith("child: ModelError")
        assert "cannot compute in a process forked after a model was loaded" in line
    assert lines[4:] == ["child: ['a pump']"] * 2 + ["parent: 1 (20,)"]
