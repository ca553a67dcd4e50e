"""A process without write permission can read a store, with and without a writer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from index.test_store import write
from qwen3_rag.errors import StoreError, StoreReadOnlyError
from qwen3_rag.index.database import FILE
from qwen3_rag.index.store import Store

NOBODY = 65534
READ = """
import os, sys, tempfile
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from index.test_store import row, write
from qwen3_rag.index.retriever import Retriever
from qwen3_rag.index.store import Store

# Import everything before giving up the permission to read Python's files.
store = Store.create(Path(tempfile.mkdtemp()) / "s", {}, dimensions=8)
write(store, "a")
for mode in ("dense", "lexical"):
    Retriever(store).search("text", row(97).vector, 10, mode, None)
store.close()
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    store = Store.open(Path(sys.argv[1]))
    retriever = Retriever(store)
    for line in sys.stdin:
        for mode in ("dense", "lexical"):
            hits = retriever.search("text", row(97).vector, 10, mode, None)
            print(mode, sorted(hit.document_id for hit, _ in hits), len(store.verify()))
        sys.stdout.flush()
    try:
        write(store, "new")
    except Exception as error:
        print(type(error).__name__, error)
    store.close()
except Exception as error:
    print(type(error).__name__, error)
"""

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become a user without write permission"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = Store.create(tmp_path / "store", {}, dimensions=8)
    write(store, "a", "b")
    store.close()
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    return store.folder


def reader(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", READ, str(folder), str(NOBODY), str(Path(__file__).parents[1])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes)


def search(process: subprocess.Popen) -> list[str]:
    assert process.stdin and process.stdout
    process.stdin.write("go\n")
    process.stdin.flush()
    return [process.stdout.readline().strip() for _ in range(2)]


@needs_root
def test_another_users_store_is_read_whether_or_not_a_writer_is_open(folder: Path) -> None:
    before = sorted(folder.iterdir())
    with reader(folder) as process:
        assert search(process) == ["dense ['a', 'b'] 0", "lexical ['a', 'b'] 0"]
        assert sorted(folder.iterdir()) == before, "a reader leaves no file in another user's folder"
        store = Store.open(folder)
        write(store, "c")
        assert search(process) == ["dense ['a', 'b', 'c'] 0", "lexical ['a', 'b', 'c'] 0"]
        write(store, "d")
        assert search(process)[0] == "dense ['a', 'b', 'c', 'd'] 0"
        store.close()
        assert search(process)[0] == "dense ['a', 'b', 'c', 'd'] 0"
        store = Store.open(folder)
        store.write([], remove=["a"])
        store.close()
        assert search(process)[0] == "dense ['b', 'c', 'd'] 0"
        out, err = process.communicate()
    assert err == ""
    assert (
        f"StoreReadOnlyError {folder} is read-only for this process: {folder} is not writable for this process" in out
    )


@needs_root
def test_commits_in_an_unreadable_log_are_an_error_and_not_ignored(folder: Path) -> None:
    store = Store.open(folder)
    write(store, "c")
    for name in (f"{FILE}-wal", f"{FILE}-shm"):
        (folder / name).chmod(0o600)
    with reader(folder) as process:
        out, _ = process.communicate("go\n")
    assert out.startswith(f"StoreError {folder} has commits that are only in its write-ahead log")
    store.close()


def test_writing_a_read_only_folder_is_an_error_with_the_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3_rag.index.connections._why_read_only", lambda folder: f"{folder} is on a CD")
    store = Store.open(folder)
    assert store.count() == (2, 2)
    with pytest.raises(StoreReadOnlyError, match=r"is read-only for this process: .* is on a CD"):
        write(store, "c")
    store.close()


def test_a_database_written_while_read_without_locks_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("qwen3_rag.index.connections._why_read_only", lambda folder: "it is on a share")
        store = Store.open(folder)

    def read_during_a_write() -> None:
        with store.snapshot():
            store.count()
            writer = Store.open(folder)
            write(writer, "c")
            writer.close()

    with pytest.raises(StoreError, match="was written while it was read, and it is on a share; try again"):
        read_during_a_write()
    assert store.count() == (3, 3)
    store.close()
