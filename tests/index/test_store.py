import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import numpy as np
import pytest

from qwen3_rag import Document
from qwen3_rag.errors import (
    IndexCorruptedError,
    InvalidArgumentError,
    StoreError,
    StoreExistsError,
    StoreLockedError,
    StoreNotFoundError,
    StoreVersionError,
)
from qwen3_rag.index.database import COUNTER, FILE
from qwen3_rag.index.retriever import Retriever
from qwen3_rag.index.store import PassageRow, Store
from qwen3_rag.index.upkeep import Upkeep
from qwen3_rag.index.vectors import file_name


def row(seed: int, start: int = 0, stop: int = 1) -> PassageRow:
    vector = np.random.default_rng(seed).normal(size=8).astype(np.float32)
    return PassageRow(start, stop, bytes([seed % 256]), vector / np.linalg.norm(vector))


def write(store: Store, *names: str) -> None:
    store.write([(Document(f"text of {name}", name), [row(sum(name.encode()), 0, 80)]) for name in names])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.create(tmp_path / "store", {"colour": "blue"}, dimensions=8)
    yield store
    store.close()


def nearest(store: Store, name: str) -> str:
    candidates = Retriever(store).search("", row(sum(name.encode())).vector, 1, "dense", None)
    return candidates[0][0].document_id


def test_a_store_reads_back_what_was_written(store: Store) -> None:
    document = Document("Größe 中文", "d", "Title", "/x", {"n": [1, None, 0.1, "é"], "deep": {"a": [True]}})
    store.write([(document, [row(1, 0, 5), row(2, 6, 8)])])
    store.close()
    again = Store.open(store.folder)
    assert again.get(["d", "?", "d"]) == [document, None, document]
    assert again.count() == (1, 2)
    first, second = again.passages([0, 1]).values()
    assert (first.text, second.text, second.ordinal) == ("Größe", "中文", 1)
    vectors = again.known_vectors([b"\x02", b"?"])
    assert list(vectors) == [b"\x02"]
    np.testing.assert_array_equal(vectors[b"\x02"], row(2).vector.astype(np.float16))
    assert (again.meta("colour"), again.last_commit().number, again.meta("nothing")) == ("blue", 1, None)
    again.close()


def test_an_upsert_replaces_and_a_delete_removes(store: Store) -> None:
    write(store, "a", "b")
    store.write([(Document("new", "a"), [row(9)])], remove=["b", "unknown"])
    assert store.count() == (1, 1)
    assert [d and d.text for d in store.get(["a", "b"])] == ["new", None]


def test_a_failed_write_changes_nothing(store: Store) -> None:
    write(store, "a")

    def failing() -> object:
        yield Document("b", "b"), [row(2)]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        store.write(failing())  # type: ignore[arg-type]
    assert store.count() == (1, 1)
    assert store.last_commit().number == 1


def test_a_reader_sees_commits_of_another_process_at_its_next_search(store: Store) -> None:
    write(store, "a")
    retriever = Retriever(store)
    assert [p.document_id for p, _ in retriever.search("", row(0).vector, 5, "dense", None)] == ["a"]
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\nfrom qwen3_rag.index.store import Store\nfrom index.test_store import write\n"
        "store = Store.open(Path(sys.argv[1])); write(store, 'b', 'c'); store.write([], remove=['a'])"
    )
    subprocess.run([sys.executable, "-c", code, str(store.folder), str(Path(__file__).parents[1])], check=True)
    assert {p.document_id for p, _ in retriever.search("", row(0).vector, 5, "dense", None)} == {"b", "c"}


def test_a_reader_opened_before_optimize_searches_the_new_generation(store: Store) -> None:
    write(store, "a", "b", "c")
    retriever = Retriever(store)
    retriever.search("", row(0).vector, 5, "dense", None)
    other = Store.open(store.folder)
    other.write([], remove=["b"])
    Upkeep(other).optimize("auto", 0.99, None)
    other.close()
    assert {p.document_id for p, _ in retriever.search("", row(0).vector, 5, "dense", None)} == {"a", "c"}


def flip_bit(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 4
    path.write_bytes(raw)


def test_a_flipped_bit_in_a_page_is_an_error(store: Store) -> None:
    write(store, *(f"{i:03}" for i in range(300)))
    store.close()
    size = (store.folder / FILE).stat().st_size
    original = (store.folder / FILE).read_bytes()
    detected = 0
    for offset in range(16, size, size // 40):
        flip_bit(store.folder / FILE, offset)
        try:
            again = Store.open(store.folder)
            assert again.verify() != []
            again.close()
        except (IndexCorruptedError, StoreNotFoundError, StoreVersionError) as error:
            assert FILE in str(error) or "format" in str(error)
        detected += 1
        (store.folder / FILE).write_bytes(original)
    assert detected >= 40
    again = Store.open(store.folder)
    assert again.verify() == []
    again.close()


def test_a_flipped_bit_in_a_vector_is_an_error_and_never_a_hit(store: Store) -> None:
    write(store, "a", "b", "c")
    flip_bit(store.folder / file_name(1), 21)
    with pytest.raises(IndexCorruptedError, match=r"vectors-1\.bin: rows 0 to 31 do not match their checksum"):
        nearest(store, "a")
    with pytest.raises(IndexCorruptedError, match="rows 0 to 31"):
        store.known_vectors([b"\x61"] + [row(sum(n.encode())).digest for n in "abc"])
    with pytest.raises(IndexCorruptedError, match="rows 0 to 31"):
        write(store, "d")
    assert store.verify() == [f"{store.folder / file_name(1)}: rows 0 to 31 do not match their checksum"]


def test_a_truncated_or_missing_vector_file_is_an_error(store: Store) -> None:
    write(store, "a", "b", "c")
    path = store.folder / file_name(1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IndexCorruptedError, match="has 47 bytes; expected at least 48"):
        nearest(store, "a")
    path.unlink()
    with pytest.raises(IndexCorruptedError, match="has 0 bytes"):
        nearest(Store.open(store.folder), "a")


def test_a_store_that_lost_commits_is_an_error(store: Store, tmp_path: Path) -> None:
    write(store, "a")
    log = store.folder / f"{FILE}-wal"
    early = log.read_bytes()
    write(store, "b")
    later, lost = tmp_path / "later", tmp_path / "lost"
    shutil.copytree(store.folder, later)
    shutil.copytree(store.folder, lost)
    raw = log.read_bytes()
    (later / log.name).write_bytes(
        raw[: len(early) + 100] + bytes([raw[len(early) + 100] ^ 1]) + raw[len(early) + 101 :]
    )
    (lost / log.name).unlink()
    for folder in (later, lost):
        (folder / f"{FILE}-shm").unlink(missing_ok=True)
        with pytest.raises((IndexCorruptedError, StoreNotFoundError)):
            Store.open(folder)


def test_a_damaged_counter_is_an_error_unless_its_other_slot_is_intact(store: Store) -> None:
    write(store, "a")
    write(store, "b")
    flip_bit(store.folder / COUNTER, 20)
    assert store.count() == (2, 2)
    flip_bit(store.folder / COUNTER, 4096 + 20)
    with pytest.raises(IndexCorruptedError, match="neither of its two slots matches its checksum"):
        store.count()


def test_a_damaged_segment_is_logged_and_its_passages_are_still_searched(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    write(store, *"abcdefgh")
    upkeep = Upkeep(store)
    upkeep.optimize("auto", 0.99, None)
    (path,) = store.folder.glob("words-*")
    original = path.read_bytes()
    for offset in range(0, len(original), 97):
        flip_bit(path, offset)
        caplog.clear()
        retriever = Retriever(store)
        assert retriever.search("c", None, 1, "lexical", None)[0][0].document_id == "c"
        assert "; searching without it" in caplog.text
        assert len(upkeep.verify()) == 1
        path.write_bytes(original)
    path.unlink()
    retriever = Retriever(store)
    assert retriever.search("c", None, 1, "lexical", None)[0][0].document_id == "c"
    Upkeep(store, lambda: retriever.damaged).optimize("auto", 0.99, None)
    assert upkeep.verify() == []
    assert len(Retriever(store).view().words) == 1


def test_verify_detects_a_changed_field(store: Store) -> None:
    store.write([(Document("x", "a", metadata={"year": 2020, "tags": ["s", None]}), [row(1)])])
    assert store.verify() == []
    with store.transaction():
        store.database.run("UPDATE fields SET value = 2021 WHERE value = 2020")
    assert store.verify() == ["the indexed fields of document 'a' do not match its metadata"]


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(7), r"has shape \(7,\); expected \(8,\)"),
        (np.full(8, np.nan), "has NaN or infinity"),
        (np.full(8, 1e30), "has NaN or infinity"),
        (np.array(["x"] * 8), "not rows of numbers"),
    ],
)
def test_writing_invalid_vectors_changes_nothing(store: Store, vector: np.ndarray, message: str) -> None:
    write(store, "a")
    with pytest.raises(InvalidArgumentError, match=message):
        store.write([(Document("x", "x"), [PassageRow(0, 1, b"x", vector)])])
    assert store.count() == (1, 1)
    assert store.last_commit().number == 1
    assert nearest(store, "a") == "a"


def test_errors_of_wrong_folders_name_the_reason(tmp_path: Path, store: Store) -> None:
    with pytest.raises(StoreNotFoundError, match="no such folder"):
        Store.open(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(StoreNotFoundError, match=r"no store\.sqlite3 in it"):
        Store.open(tmp_path / "other")
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(StoreExistsError, match="is not empty and not a store"):
        Store.create(tmp_path / "other", {}, dimensions=8)
    with pytest.raises(StoreExistsError, match=r"is already a store; use Pipeline\.open"):
        Store.create(store.folder, {}, dimensions=8)
    (tmp_path / "other" / FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(IndexCorruptedError, match="not a database"):
        Store.open(tmp_path / "other")
    (tmp_path / "other" / FILE).unlink()
    connection = apsw.Connection(str(tmp_path / "other" / FILE))
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(StoreNotFoundError, match="not a store of this package"):
        Store.open(tmp_path / "other")
    store.close()
    connection = apsw.Connection(str(store.folder / FILE), vfs="cksmvfs")
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(StoreVersionError, match="in format 7; this version reads formats 2 and 3"):
        Store.open(store.folder)


def test_a_failed_creation_leaves_no_store_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        Store.create(tmp_path / "s", {"bad": object()}, dimensions=8)
    assert list((tmp_path / "s").iterdir()) == []
    Store.create(tmp_path / "s", {}, dimensions=8).close()


def test_only_one_of_several_processes_creates_a_store(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom qwen3_rag.index.store import Store\n"
        "from qwen3_rag.errors import StoreExistsError, StoreLockedError\n"
        "sys.stdin.readline()\n"
        "try:\n    Store.create(Path(sys.argv[1]), {}, dimensions=8).close(); print('created')\n"
        "except (StoreExistsError, StoreLockedError) as error: print('refused')"
    )
    for turn in range(3):
        command = [sys.executable, "-c", code, str(tmp_path / str(turn))]
        racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        outputs = sorted(racer.communicate(timeout=60)[0].strip() for racer in racers)
        assert outputs == ["created", "refused", "refused"]
        created = Store.open(tmp_path / str(turn))
        write(created, "a")
        assert nearest(created, "a") == "a"
        created.close()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "store", Path("/proc/store")):
        with pytest.raises(StoreError, match="cannot be created"):
            Store.create(folder, {}, dimensions=8)
    assert (tmp_path / "file").read_text() == ""


def test_a_deleted_folder_is_an_error(store: Store) -> None:
    write(store, "a")
    retriever = Retriever(store)
    retriever.view()
    shutil.rmtree(store.folder)
    for use in (lambda: nearest(store, "a"), lambda: write(store, "b"), retriever.view, lambda: store.get(["a"])):
        with pytest.raises(StoreNotFoundError, match="no longer accessible"):
            use()
    assert not store.folder.exists()


def test_a_file_system_without_locks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3_rag.index.connections.VFS", "unix-none")
    with pytest.raises(StoreError, match="no shared memory or locks"):
        Store.create(tmp_path / "store", {}, dimensions=8)
    monkeypatch.undo()
    Store.create(tmp_path / "store", {}, dimensions=8).close()


def test_a_second_writer_gets_a_clear_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3_rag.index.connections.BUSY", 50)
    monkeypatch.setattr("qwen3_rag.index.database.WAIT", 0.1)
    other = Store.open(store.folder)
    with store.database.transaction(), pytest.raises(StoreLockedError, match="another writer holds the store"):
        write(other, "b")
    write(other, "b")
    other.close()
    assert store.count() == (1, 1)


def test_a_store_cannot_attach_other_databases(store: Store) -> None:
    with store.snapshot(), pytest.raises(apsw.SQLError, match="too many attached"):
        store.database.run("ATTACH ':memory:' AS other")


def test_compaction_keeps_live_passages_and_frees_the_rest(store: Store) -> None:
    for start in range(0, 300, 50):
        write(store, *(f"{i:03} {'and more ' * 100}" for i in range(start, start + 50)))
    store.write([], remove=[f"{i:03} {'and more ' * 100}" for i in range(290)])
    store.close()
    before = (store.folder / FILE).stat().st_size
    store = Store.open(store.folder)
    Upkeep(store).optimize("auto", 0.99, None)
    store.close()
    assert (store.folder / FILE).stat().st_size < before
    again = Store.open(store.folder)
    assert again.count() == (10, 10)
    assert len(Retriever(again).search("", row(0).vector, 50, "dense", None)) == 10
    assert again.verify() == []
    again.close()


def test_verify_writes_nothing_and_runs_during_a_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3_rag.index.connections.BUSY", 50)
    metadata = {"n": 1, "tags": ["a", "b"]}
    store.write([(Document("text", "a", metadata=metadata), [row(1)])])
    again = Store.open(store.folder)
    with store.database.transaction():
        assert again.verify() == []
    with again.snapshot():
        assert again.verify() == []
        write(store, "b")  # the snapshot does not block a writer
    assert again.count() == (2, 2)
    again.close()


def test_verify_detects_a_missing_field_name(store: Store) -> None:
    store.write([(Document("text", "a", metadata={"n": 1}), [row(1)])])
    with store.transaction():
        store.database.run("DELETE FROM field_names")
    again = Store.open(store.folder)
    assert again.verify() == ["the indexed fields of document 'a' do not match its metadata"]
    again.close()


def test_a_writer_waits_for_another_process_that_writes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3_rag.index.connections.BUSY", 20)
    other = Store.open(store.folder)
    locked, order = threading.Event(), []

    def hold() -> None:
        with store.database.transaction():
            locked.set()
            time.sleep(0.5)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    write(other, "b")
    order.append("second")
    thread.join()
    assert order == ["first", "second"]
    other.close()


def test_optimize_beside_a_writer_leaves_space_for_a_later_call_and_deletes_old_files(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(store, *"abc")
    store.write([], remove=["a"])
    monkeypatch.setattr("qwen3_rag.index.connections.BUSY", 20)
    monkeypatch.setattr("qwen3_rag.index.database.SHRINK_WAIT", 0.1)
    other = Store.open(store.folder)
    real = store.shrink

    def shrink() -> None:
        with other.database.transaction():
            real()

    monkeypatch.setattr(store, "shrink", shrink)
    Upkeep(store).optimize("flat", 0.99, None)
    assert "a later optimize frees its space" in caplog.text
    assert [path.name for path in store.folder.glob("vectors-*")] == [file_name(2)]
    monkeypatch.setattr(store, "shrink", lambda: (_ for _ in ()).throw(StoreError("disk")))
    store.write([], remove=["b"])
    with pytest.raises(StoreError, match="disk"):
        Upkeep(store).optimize("flat", 0.99, None)
    assert [path.name for path in store.folder.glob("vectors-*")] == [file_name(3)]
    assert other.verify() == []
    other.close()
