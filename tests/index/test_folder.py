"""A store is identified by its identity, not its path: moved, swapped, rebuilt or truncated, it is right or raises."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from index.test_store import row, write
from qwen3_rag import Document
from qwen3_rag.errors import IndexCorruptedError, StoreError, StoreMovedError, StoreNotFoundError
from qwen3_rag.index.database import FILE
from qwen3_rag.index.folder import COUNTER, Folder
from qwen3_rag.index.retriever import Retriever
from qwen3_rag.index.store import Store
from qwen3_rag.index.upkeep import Upkeep
from qwen3_rag.index.vectors import file_name


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def make(folder: Path, *names: str) -> None:
    store = Store.create(folder, {}, dimensions=8)
    write(store, *names)
    store.close()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Store]:
    make(tmp_path / "live", *"abc")
    store = Store.open(tmp_path / "live")
    Retriever(store).search("", row(97).vector, 1, "dense", None)
    yield store
    store.close()


def uses(store: Store) -> list:
    retriever = Retriever(store)
    upkeep = Upkeep(store)
    return [
        lambda: retriever.search("", row(97).vector, 1, "dense", None),
        lambda: retriever.search("text", None, 1, "lexical", None),
        lambda: store.get(["a"]),
        lambda: store.count(),
        lambda: store.verify(),
        lambda: write(store, "d"),
        lambda: store.write([], remove=["a"]),
        lambda: upkeep.optimize("flat", 0.9, None),
    ]


def test_a_store_opened_by_a_relative_path_stays_the_same_after_chdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
        make(tmp_path / name / "store", name)
    monkeypatch.chdir(tmp_path / "A")
    store = Store.open(Path("store"))
    monkeypatch.chdir(tmp_path / "B")
    before = contents(tmp_path / "B/store")
    write(store, "new")
    Upkeep(store).optimize("flat", 0.9, None)
    assert store.get(["A", "new", "B"])[2] is None
    assert store.count() == (2, 2)
    store.close()
    assert contents(tmp_path / "B/store") == before
    again = Store.open(tmp_path / "A/store")
    assert again.count() == (2, 2)
    assert again.verify() == []
    again.close()


@pytest.mark.parametrize("number", range(8))
def test_a_store_swapped_for_another_is_an_error_and_neither_is_changed(
    live: Store, tmp_path: Path, number: int
) -> None:
    make(tmp_path / "next", *"pqr")
    use = uses(live)[number]
    live.folder.rename(tmp_path / "old")
    (tmp_path / "next").rename(live.folder)
    before = contents(live.folder)
    with pytest.raises(StoreMovedError, match="is not the store that was opened"):
        use()
    live.close()
    assert contents(live.folder) == before
    for folder, name in ((live.folder, "p"), (tmp_path / "old", "a")):
        store = Store.open(folder)
        assert store.get([name])[0] is not None
        assert store.verify() == []
        store.close()


def test_closing_a_moved_store_keeps_the_log_of_the_store_now_at_its_path(live: Store, tmp_path: Path) -> None:
    write(live, "d")
    live.folder.rename(tmp_path / "old")
    other = Store.create(live.folder, {}, dimensions=8)
    write(other, "p")
    log = live.folder / f"{FILE}-wal"
    assert log.stat().st_size > 0
    live.close()
    assert log.stat().st_size > 0
    write(other, "q")
    other.close()
    for folder, count in ((live.folder, (2, 2)), (tmp_path / "old", (4, 4))):
        store = Store.open(folder)
        assert store.count() == count
        assert store.verify() == []
        store.close()


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("number", range(8))
def test_an_old_object_does_not_write_to_a_store_rebuilt_at_its_path(live: Store, number: int, in_place: bool) -> None:
    use = uses(live)[number]
    if in_place:  # the same folder with new files
        for path in live.folder.iterdir():
            path.unlink()
    else:
        shutil.rmtree(live.folder)
    make(live.folder, *(f"new {i}" for i in range(40)))
    before = contents(live.folder)
    with pytest.raises(StoreMovedError):
        use()
    live.close()
    assert contents(live.folder) == before


def test_a_moved_store_raises_and_is_intact_at_its_new_path(live: Store, tmp_path: Path) -> None:
    live.folder.rename(tmp_path / "away")
    with pytest.raises(StoreNotFoundError, match="no longer accessible"):
        live.get(["a"])
    live.close()
    again = Store.open(tmp_path / "away")
    assert again.verify() == []
    again.close()


def test_retargeting_a_link_does_not_affect_an_open_store(tmp_path: Path) -> None:
    make(tmp_path / "v1", "a")
    make(tmp_path / "v2", "b")
    (tmp_path / "current").symlink_to("v1")
    store = Store.open(tmp_path / "current")
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("v2")
    assert [d is not None for d in store.get(["a", "b"])] == [True, False]
    write(store, "c")
    store.close()
    again = Store.open(tmp_path / "current")
    assert [d is not None for d in again.get(["a", "b", "c"])] == [False, True, False]
    again.close()


def test_a_database_copied_from_another_store_is_detected_by_its_identity(tmp_path: Path) -> None:
    make(tmp_path / "one", "a")
    make(tmp_path / "two", "b")
    shutil.copy(tmp_path / "two" / FILE, tmp_path / "one" / FILE)
    with pytest.raises(StoreMovedError):
        Store.open(tmp_path / "one")


def test_a_vector_file_truncated_under_an_open_store_is_an_error(live: Store) -> None:
    retriever = Retriever(live)
    retriever.search("", row(97).vector, 1, "dense", None)
    os.truncate(live.folder / file_name(1), 0)
    with pytest.raises(IndexCorruptedError, match="was truncated: it has 0 bytes; expected 48"):
        retriever.search("", row(97).vector, 1, "dense", None)


def test_search_continues_without_a_segment_truncated_under_an_open_store(live: Store) -> None:
    Upkeep(live).optimize("flat", 0.9, None)
    retriever = Retriever(live)
    assert len(retriever.search("text", None, 5, "lexical", None)) == 3
    (path,) = live.folder.glob("words-*")
    os.truncate(path, 0)
    assert len(retriever.search("text", None, 5, "lexical", None)) == 3
    assert retriever.damaged == {path.name}


def test_no_file_is_opened_in_a_closed_folder(live: Store) -> None:
    live.close()
    for use in (lambda: live.get(["a"]), lambda: live.files.open(COUNTER, os.O_RDONLY)):
        with pytest.raises(StoreError, match="was closed"):
            use()


def test_a_folder_expands_home_and_resolves_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = Store.create(Path("~/store"), {}, dimensions=8)
    assert store.folder == tmp_path.resolve() / "store"
    store.write([(Document("", "empty"), [])])
    store.close()
    assert Folder(tmp_path / "store/../store").path == store.folder
