import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qwen3_rag import Document
from qwen3_rag.errors import (
    IndexCorruptedError,
    StoreError,
    StoreExistsError,
    StoreLockedError,
    StoreNotFoundError,
    StoreVersionError,
)
from qwen3_rag.index.database import FILE
from qwen3_rag.index.retriever import CHECKPOINT, Retriever
from qwen3_rag.index.store import PassageRow, Store


def row(seed: int, start: int = 0, stop: int = 1) -> PassageRow:
    vector = np.random.default_rng(seed).normal(size=8).astype(np.float32)
    return PassageRow(start, stop, bytes([seed % 256]), vector / np.linalg.norm(vector))


def write(store: Store, *names: str) -> None:
    store.write([(Document(f"text of {name}", name), [row(sum(name.encode()), 0, 4)]) for name in names])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.create(tmp_path / "store", {"colour": "blue"})
    yield store
    store.close()


def found(store: Store, name: str) -> str:
    candidates = Retriever(store, 8).search("", row(sum(name.encode())).vector, 1, "dense", None)
    return candidates[0][0].document.id


def test_what_was_written_is_read_back(store: Store) -> None:
    document = Document("Größe 中文", "d", "Title", "/x", {"n": [1, None, 0.1, "é"], "deep": {"a": [True]}})
    store.write([(document, [row(1, 0, 5), row(2, 6, 8)])])
    store.close()
    again = Store.open(store.folder)
    assert again.get(["d", "?", "d"]) == [document, None, document]
    assert again.count() == (1, 2)
    first, second = again.passages([1, 2]).values()
    assert (first.text, second.text, second.ordinal) == ("Größe", "中文", 1)
    np.testing.assert_array_equal(again.known_vectors([b"\x02", b"?"])[b"\x02"], row(2).vector)
    assert (again.meta("colour"), again.meta("commit"), again.meta("nothing")) == ("blue", 2, None)
    again.close()


def test_an_upsert_replaces_and_a_delete_removes(store: Store) -> None:
    write(store, "a", "b")
    store.write([(Document("new", "a"), [row(9)])], remove=["b", "unknown"])
    assert store.count() == (1, 1)
    assert [d and d.text for d in store.get(["a", "b"])] == ["new", None]


def test_a_failed_write_leaves_nothing(store: Store) -> None:
    write(store, "a")

    def failing() -> object:
        yield Document("b", "b"), [row(2)]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        store.write(failing())  # type: ignore[arg-type]
    assert store.count() == (1, 1)
    assert store.meta("commit") == 2


def test_a_reader_sees_another_process_at_its_next_search(store: Store) -> None:
    write(store, "a")
    retriever = Retriever(store, 8)
    assert [p.document.id for p, _ in retriever.search("", row(0).vector, 5, "dense", None)] == ["a"]
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\nfrom qwen3_rag.index.store import Store\nfrom index.test_store import write\n"
        "store = Store.open(Path(sys.argv[1])); write(store, 'b', 'c'); store.write([], remove=['a'])"
    )
    subprocess.run([sys.executable, "-c", code, str(store.folder), str(Path(__file__).parents[1])], check=True)
    assert {p.document.id for p, _ in retriever.search("", row(0).vector, 5, "dense", None)} == {"b", "c"}


def test_a_reader_older_than_optimize_still_ends_up_right(store: Store) -> None:
    write(store, "a", "b", "c")
    retriever = Retriever(store, 8)
    retriever.search("", row(0).vector, 5, "dense", None)
    other = Store.open(store.folder)
    other.write([], remove=["b"])
    other.compact()
    other.close()
    assert {p.document.id for p, _ in retriever.search("", row(0).vector, 5, "dense", None)} == {"a", "c"}


def test_a_missing_or_damaged_checkpoint_is_rebuilt_and_said(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    write(store, *"abcdefgh")
    Retriever(store, 8).checkpoint()
    path = store.folder / CHECKPOINT
    whole = path.read_bytes()
    assert found(store, "c") == "c"
    assert not caplog.records
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        caplog.clear()
        assert found(store, "c") == "c"
        assert "is damaged; rebuilding" in caplog.text
    for length in (0, 5, 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert found(store, "c") == "c"
    path.unlink()
    assert found(store, "c") == "c"


def test_a_checkpoint_of_another_time_is_brought_forward_or_left(store: Store) -> None:
    write(store, "a", "b")
    Retriever(store, 8).checkpoint()
    store.write([(Document("x", "c"), [row(sum(b"c"))])], remove=["a"])
    assert {p.document.id for p, _ in Retriever(store, 8).search("", row(0).vector, 5, "dense", None)} == {"b", "c"}


def test_a_flipped_bit_in_a_row_is_an_error(store: Store) -> None:
    write(store, "a", "b", "c")
    store.close()
    with sqlite3.connect(store.folder / FILE) as connection:
        connection.execute("UPDATE documents SET text = 'text of B' WHERE id = 'b'")
        (vector,) = connection.execute("SELECT vector FROM passages WHERE number = 3").fetchone()
        connection.execute("UPDATE passages SET vector = ? WHERE number = 3", (bytes([vector[0] ^ 1]) + vector[1:],))
    connection.close()
    again = Store.open(store.folder)
    assert again.get(["a"]) != [None]
    with pytest.raises(IndexCorruptedError, match="document 'b' is not as it was written"):
        again.get(["b"])
    with pytest.raises(IndexCorruptedError, match=r"store\.sqlite3: passage 3"):
        list(again.vectors_after(0))
    assert again.verify() == ["document 'b'", "passage 3"]
    again.close()


def test_a_changed_field_is_found_by_verify(store: Store) -> None:
    store.write([(Document("x", "a", metadata={"year": 2020, "tags": ["s", None]}), [row(1)])])
    assert store.verify() == []
    store.database.connection.execute("UPDATE fields SET value = 2021 WHERE key = 'year'")
    assert store.verify() == ["fields of document 'a'"]


def test_a_failed_commit_leaves_no_transaction_open(store: Store) -> None:
    real = store.database.connection

    class Failing:
        def commit(self) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    store.database.connection = Failing()  # type: ignore[assignment]
    with pytest.raises(StoreError, match="disk I/O error"):
        store.set_meta("x", 1)
    store.database.connection = real
    assert store.meta("x") is None
    write(store, "a")
    assert store.count() == (1, 1)


def test_wrong_folders_are_told_apart(tmp_path: Path, store: Store) -> None:
    with pytest.raises(StoreNotFoundError, match="no such folder"):
        Store.open(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(StoreNotFoundError, match=r"no store\.sqlite3 in it"):
        Store.open(tmp_path / "other")
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(StoreExistsError, match="is not empty and no store"):
        Store.create(tmp_path / "other", {})
    with pytest.raises(StoreExistsError, match=r"is a store already; use Pipeline\.open"):
        Store.create(store.folder, {})
    (tmp_path / "other" / FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(IndexCorruptedError, match="not a database"):
        Store.open(tmp_path / "other")
    (tmp_path / "other" / FILE).unlink()
    connection = sqlite3.connect(tmp_path / "other" / FILE)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(StoreNotFoundError, match="not a store of this package"):
        Store.open(tmp_path / "other")
    store.close()
    connection = sqlite3.connect(store.folder / FILE)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(StoreVersionError, match="in format 7; this version reads format 1"):
        Store.open(store.folder)


def test_a_failed_creation_leaves_no_store_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        Store.create(tmp_path / "s", {"bad": object()})
    assert list((tmp_path / "s").iterdir()) == []
    Store.create(tmp_path / "s", {}).close()


def test_a_second_writer_gets_a_clear_error(store: Store) -> None:
    other = Store.open(store.folder)
    other.database.connection.execute("PRAGMA busy_timeout = 50")
    with store.database.transaction(), pytest.raises(StoreLockedError, match="another writer holds the store"):
        write(other, "b")
    write(other, "b")
    other.close()
    assert store.count() == (1, 1)


def test_a_store_cannot_attach_other_databases(store: Store) -> None:
    with pytest.raises(sqlite3.OperationalError, match="too many attached"):
        store.database.connection.execute("ATTACH ':memory:' AS other")


def test_compacting_keeps_what_is_there_and_frees_the_rest(store: Store) -> None:
    for start in range(0, 300, 50):
        write(store, *(f"{i:03}" for i in range(start, start + 50)))
    store.write([], remove=[f"{i:03}" for i in range(290)])
    store.close()
    before = (store.folder / FILE).stat().st_size
    store = Store.open(store.folder)
    store.compact()
    store.close()
    assert (store.folder / FILE).stat().st_size < before
    again = Store.open(store.folder)
    assert again.count() == (10, 10)
    assert found(again, "295") == "295"
    assert again.verify() == []
    again.close()
