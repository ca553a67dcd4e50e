"""A backup is the store as of one commit, whole, whatever others do meanwhile."""

import threading
from pathlib import Path

import pytest

from fakes import LengthReranker, WordEmbedder
from qwen3_rag import Document, IndexCorruptedError, Pipeline, StoreError, StoreExistsError
from qwen3_rag.index.folder import COUNTER


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    pipeline = Pipeline.create(tmp_path / "store", WordEmbedder(), LengthReranker(), chunk_tokens=8, chunk_overlap=0)
    pipeline.add([Document(f"text number {n} about apples and pears {n % 7}.", f"d{n}") for n in range(300)])
    pipeline.delete([f"d{n}" for n in range(0, 300, 3)])
    pipeline.optimize("ivf", recall=0.5)
    pipeline.add([Document("a text in the tail", "tail")])
    return pipeline


def answers(pipeline: Pipeline) -> list[tuple[str, float | None]]:
    hits = [hit for mode in ("dense", "lexical") for hit in pipeline.search("apples number 7", mode=mode, top_k=20)]  # type: ignore[arg-type]
    return [(hit.id, hit.score) for hit in hits]


def test_a_backup_opens_verifies_and_answers_as_the_store(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.backup(tmp_path / "copies/monday")
    with Pipeline.open(tmp_path / "copies/monday", WordEmbedder(), LengthReranker()) as copy:
        assert copy.verify() == []
        assert len(copy) == len(pipeline)
        assert answers(copy) == answers(pipeline)
        assert copy.info()["index"] == pipeline.info()["index"]
        copy.add([Document("only in the copy", "new")])
        assert pipeline.get(["new"]) == [None]
        assert copy.verify() == []
    assert pipeline.verify() == []
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["monday"]


def test_backups_taken_while_a_thousand_documents_are_added_are_whole(pipeline: Pipeline, tmp_path: Path) -> None:
    done = threading.Event()

    def add() -> None:
        for n in range(1000):
            pipeline.add([Document(f"added {n} about plums.", f"a{n}")])
            if n % 300 == 200:
                pipeline.optimize("flat")
        done.set()

    thread = threading.Thread(target=add)
    thread.start()
    counts = []
    while not done.is_set():
        pipeline.backup(tmp_path / f"copy{len(counts)}")
        with Pipeline.open(tmp_path / f"copy{len(counts)}", WordEmbedder(), LengthReranker()) as copy:
            assert copy.verify() == []
            counts.append(len(copy))
            assert [entry.id for entry in copy.documents("a")] == sorted(f"a{n}" for n in range(len(copy) - 201))
    thread.join()
    assert len(counts) > 1
    assert counts == sorted(counts)


def test_a_backup_never_replaces_anything_and_a_failed_one_leaves_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("kept")
    for to in (tmp_path / "full", tmp_path / "store", pipeline.store.folder):
        with pytest.raises(StoreExistsError):
            pipeline.backup(to)
    with pytest.raises(StoreError, match="cannot be written"):
        pipeline.backup(tmp_path / "full/file/below")
    (tmp_path / "empty").mkdir()
    pipeline.backup(tmp_path / "empty")
    assert (tmp_path / "empty" / COUNTER).is_file()
    (vectors,) = pipeline.store.folder.glob("vectors-*.bin")
    raw = bytearray(vectors.read_bytes())
    raw[5] ^= 1
    vectors.write_bytes(raw)
    damaged = Pipeline.open(pipeline.store.folder, WordEmbedder(), LengthReranker())
    with damaged, pytest.raises(IndexCorruptedError, match="do not match their checksum"):
        damaged.backup(tmp_path / "bad")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full", "store"]
