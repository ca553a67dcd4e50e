"""Every version must open the stores of earlier formats in `stores/`.

`python tests/index/test_kept_format.py FOLDER` creates one: run it only for a new format, and keep the old ones.
"""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from qwen3_rag import Document
from qwen3_rag.index.retriever import Retriever
from qwen3_rag.index.schema import FORMAT
from qwen3_rag.index.store import PassageRow, Store
from qwen3_rag.index.upkeep import Upkeep

STORES = Path(__file__).parent / "stores"
NAMES = ["red", "green", "blue"]


def vectors(count: int) -> np.ndarray:
    """Unit rows that are the same on every machine."""
    turns = np.arange(count)[:, None] * np.sqrt(np.arange(2, 18))[None]
    rows = np.cos(turns).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def document(i: int) -> Document:
    metadata = {"n": i, "colour": NAMES[i % 3], "tags": ["even"] if i % 2 == 0 else [], "when": None}
    return Document(f"Passage {i} of the kept store, 第{i}段", f"d{i}", "Kept" if i % 5 else None, "/kept", metadata)


def make(folder: Path) -> None:
    store = Store.create(folder, {"settings": {"chunk_tokens": 400}}, dimensions=16)
    rows = vectors(610)

    def write(start: int, stop: int) -> None:
        digests = [i.to_bytes(16, "big") for i in range(start, stop)]
        passages = [
            PassageRow(0, 60, digest, row, 7, "Part") for digest, row in zip(digests, rows[start:stop], strict=True)
        ]
        store.write((document(i), [p]) for i, p in zip(range(start, stop), passages, strict=True))

    write(0, 600)
    store.write([], remove=["d0"])
    Upkeep(store).optimize("ivf", 0.9, None)
    write(600, 610)
    store.write([], remove=["d1", "d605"])
    store.close()


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_of_each_format_is_opened_and_searched(version: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(STORES / f"format-{version}.zip") as archive:
        archive.extractall(tmp_path)
    store = Store.open(tmp_path / "store")
    live = np.array([i not in (0, 1, 605) for i in range(610)])
    assert store.count() == (607, 607)
    assert store.get(["d7", "d605", "d609"]) == [document(7), None, document(609)]
    assert store.meta("settings") == {"chunk_tokens": 400}
    assert store.verify() + Upkeep(store).verify() == []
    retriever = Retriever(store)
    assert retriever.describe()["recall@100"] >= 0.9
    rows = vectors(610)
    for number in (2, 300, 603):
        hits = retriever.search("", rows[number], 5, "dense", None)
        assert store.get([hits[0][0].document_id]) == [document(number)]
        assert (hits[0][0].page, hits[0][0].heading) == (7, "Part")
        scores = np.sort((rows @ rows[number])[live])[::-1]
        np.testing.assert_allclose(hits[0][1], scores[0], atol=1e-3)
        (hit, *_) = retriever.search(f"第{number}段", None, 5, "lexical", None)
        assert hit[0].document_id == f"d{number}"
    assert len(retriever.search("part", None, 700, "lexical", None)) == 607
    red = retriever.search(
        "", rows[3], 607, "dense", {"colour": "red", "n": {"$gte": 590}, "tags": {"$contains": "even"}}
    )
    assert {hit.document_id for hit, _ in red} == {f"d{i}" for i in range(590, 610) if i % 6 == 0}
    store.write([(document(1), [PassageRow(0, 9, bytes(16), rows[1])])])
    assert Retriever(store).search("", rows[1], 1, "dense", None)[0][0].document_id == "d1"
    assert store.format == FORMAT
    assert store.verify() == []
    store.close()


def test_a_long_text_of_format_2_is_read_before_and_after_the_upgrade_to_format_3(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", {}, dimensions=16)
    text = "".join(f"{i:05} " for i in range(30_000))
    rows = vectors(3)
    passages = [PassageRow(at, at + 5, bytes(16), row) for at, row in zip((0, 65_532, 120_000), rows, strict=True)]
    store.write([(Document("", "empty"), [])])
    with store.transaction():  # the layout of format 2
        run = store.database.run
        for table in ("sources", "staged", "blocks_of_text"):
            run(f"DROP TABLE {table}")
        run("DROP INDEX documents_by_origin")
        run("ALTER TABLE documents DROP COLUMN origin")
        run("CREATE TABLE sources (path TEXT PRIMARY KEY, size INTEGER, changed INTEGER, digest BLOB)")
        run("INSERT INTO documents VALUES (2, 'long', NULL, NULL, ?, '{}', 0, 3)", (text,))
        sql = "INSERT INTO passages VALUES (?, 2, ?, ?, ?, NULL, NULL, ?)"
        store.database.many(sql, [(i, i, p.start, p.stop, p.digest) for i, p in enumerate(passages)])
        run("PRAGMA user_version = 2")

    def check() -> None:
        assert store.get(["long"]) == [Document(text, "long")]
        assert [store.passages([i])[i].text for i in range(3)] == [text[p.start : p.stop] for p in passages]

    check()
    assert (store.format, store.sources.all(["/"]), store.sources.documents("/x")) == (2, {}, [])
    store.write([(Document(text, "new"), [])])
    assert store.format == 3
    check()
    assert store.get(["new"]) == [Document(text, "new")]
    store.close()


def test_a_store_of_the_current_format_exists() -> None:
    assert (STORES / f"format-{FORMAT}.zip").is_file()


if __name__ == "__main__":
    make(Path(sys.argv[1]) / "store")
    with zipfile.ZipFile(STORES / f"format-{FORMAT}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((Path(sys.argv[1]) / "store").iterdir()):
            archive.write(path, f"store/{path.name}")
