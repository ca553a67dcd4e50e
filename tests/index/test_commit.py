"""The commit is one record: what is written is read back, and a damaged row is an error that names its key."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from index.test_store import write
from qwen3_rag.errors import IndexCorruptedError
from qwen3_rag.index import database
from qwen3_rag.index.commit import KEYS, Checkpoint, Commit, IndexPolicy, SegmentName, commit_of, commit_rows
from qwen3_rag.index.store import Store
from qwen3_rag.index.upkeep import Upkeep

PATH = Path("/folder/store.sqlite3")
COMMIT = Commit(
    number=7,
    generation=2,
    rows=30,
    removed=4,
    last_removal=9,
    documents=11,
    words=(SegmentName("words-2-0-a.seg", 0, 16, 4096, -5), SegmentName("words-2-16-b.seg", 16, 8, 2048, 6)),
    dense=Checkpoint("dense-2-24-c.faiss", 2, 24, 16, 3, 0.99125, 200, "passages", -8, 512, 9000),
    policy=IndexPolicy("ivf", 0.95, 12),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.create(tmp_path / "store", {}, dimensions=8)
    write(store, "a", "b")
    yield store
    store.close()


@pytest.mark.parametrize("commit", [Commit(), COMMIT, replace(COMMIT, dense=None, policy=IndexPolicy())])
def test_a_commit_is_read_back_from_the_rows_that_record_it(commit: Commit) -> None:
    assert commit_of(dict(commit_rows(commit)), commit.last_removal, PATH) == commit


def test_a_commit_without_its_optional_rows_has_no_derived_files_and_the_default_policy() -> None:
    values = {key: json.dumps(1) for key in ("commit", "generation", "rows", "removed", "documents")}
    commit = commit_of(values, 0, PATH)
    assert (commit.words, commit.dense, commit.policy) == ((), None, IndexPolicy("auto", 0.99, 0))
    assert (commit.live, commit.covered, commit.derived) == (0, 0, frozenset())


def test_only_the_rows_of_a_commit_that_changed_are_written() -> None:
    later = replace(COMMIT, number=8, policy=replace(COMMIT.policy, missed_at=20))
    assert dict(commit_rows(later, COMMIT)) == {
        "commit": "8",
        "index": '{"kind": "ivf", "recall": 0.95, "hopeless": 20}',
    }


def test_a_commit_knows_its_live_passages_and_its_derived_files() -> None:
    assert (COMMIT.live, COMMIT.covered) == (26, 24)
    assert COMMIT.derived == {"words-2-0-a.seg", "words-2-16-b.seg", "dense-2-24-c.faiss"}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["{", '"x"', "3.5", '{"kind": "annoy"}', '[{"file": "f"}]', "[3]"])
def test_a_malformed_row_of_a_commit_is_an_error_that_names_its_key(key: str, value: str) -> None:
    with pytest.raises(IndexCorruptedError, match=f"'{key}' in the table meta is damaged"):
        commit_of(dict(commit_rows(COMMIT)) | {key: value}, 0, PATH)


@pytest.mark.parametrize("key", ["commit", "rows"])
def test_a_commit_that_lacks_a_number_is_an_error_that_names_its_key(key: str) -> None:
    rows = dict(commit_rows(COMMIT))
    del rows[key]
    with pytest.raises(IndexCorruptedError, match=f"the table meta has no row '{key}'"):
        commit_of(rows, 0, PATH)


def test_opening_a_store_with_a_malformed_commit_is_an_error(store: Store) -> None:
    with store.transaction():
        store.database.run("UPDATE meta SET value = '[1' WHERE key = 'index'")
    with pytest.raises(IndexCorruptedError, match=r"store\.sqlite3: 'index' in the table meta is damaged"):
        Store.open(store.folder)
    with pytest.raises(IndexCorruptedError, match="'index' in the table meta is damaged"):
        store.count()


def test_nested_snapshots_give_the_same_commit(store: Store) -> None:
    with store.snapshot() as outer:
        other = Store.open(store.folder)
        write(other, "c")
        other.close()
        with store.snapshot() as inner:
            assert inner is outer
        assert store.last_commit() is outer
    assert store.last_commit().number == outer.number + 1


def test_an_unchanged_commit_is_parsed_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = store.last_commit()
    monkeypatch.setattr(database, "commit_of", None)
    assert store.last_commit() is parsed


def test_a_transaction_writes_the_commit_assigned_to_it(store: Store) -> None:
    before = store.last_commit()
    with store.transaction() as transaction:
        assert transaction.commit == replace(before, number=before.number + 1)
        transaction.commit = replace(transaction.commit, policy=IndexPolicy("ivf", 0.9))
        assert store.last_commit() is transaction.commit
    again = Store.open(store.folder)
    assert again.last_commit() == replace(before, number=before.number + 1, policy=IndexPolicy("ivf", 0.9))
    again.close()


def test_a_commit_assigned_to_a_transaction_that_fails_is_not_written(store: Store) -> None:
    def fail() -> None:
        with store.transaction() as transaction:
            transaction.commit = replace(transaction.commit, rows=99)
            raise RuntimeError("stop")

    before = store.last_commit()
    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert store.last_commit() == before


def test_optimize_records_its_policy_and_files_in_the_commit(store: Store) -> None:
    store.write([], remove=["a"])
    Upkeep(store).optimize("flat", 0.9, None)
    commit = store.last_commit()
    assert (commit.generation, commit.rows, commit.removed, commit.last_removal) == (2, 1, 0, 0)
    assert commit.policy == IndexPolicy("flat", 0.9)
    assert {path.name for path in store.folder.glob("words-*")} == commit.derived


@pytest.mark.parametrize("version", [2, 3])
def test_the_commit_of_a_store_of_each_format_is_read(version: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(Path(__file__).parent / "stores" / f"format-{version}.zip") as archive:
        archive.extractall(tmp_path)
    store = Store.open(tmp_path / "store")
    commit = store.last_commit()
    assert store.format == version
    assert (commit.generation, commit.rows, commit.live, commit.documents) == (2, 609, 607, 607)
    assert commit.policy == IndexPolicy("ivf", 0.9)
    assert commit.dense is not None
    assert commit.dense.rows == 592
    assert [name.rows for name in commit.words] == [599]
    assert commit.derived == {p.name for p in store.folder.iterdir() if p.name.startswith(("words-", "dense-"))}
    store.close()
