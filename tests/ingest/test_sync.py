"""A store and its folder: what is read, what is left alone, what is kept when things go wrong."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from qwen3_rag import Document, Pipeline
from qwen3_rag.errors import IngestError, MissingDependencyError
from qwen3_rag.ingest import batches, files, planning, readers
from qwen3_rag.ingest.files import open_file
from qwen3_rag.ingest.planning import look
from qwen3_rag.ingest.readers import read
from qwen3_rag.ingest.walking import Selection


class Words:
    """A stand-in embedder that counts the texts it embeds; vectors depend on the text alone."""

    dimensions, longest, takes_instructions = 8, 8192, False

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode_document(self, texts: str | list[str], show_progress: bool = False) -> np.ndarray:
        several = [texts] if isinstance(texts, str) else texts
        self.seen += several
        digests = [hashlib.sha256(text.encode()).digest()[: self.dimensions] for text in several]
        rows = np.array([np.frombuffer(digest, np.uint8) for digest in digests], np.float32) - 127
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows[0] if isinstance(texts, str) else rows

    def encode_query(self, texts: str | list[str], instruction: str | None = None) -> np.ndarray:
        return self.encode_document(texts)

    def spans(self, text: str) -> np.ndarray:
        import re

        return np.array([m.span() for m in re.finditer(r"\S+", text)], dtype=np.int64).reshape(-1, 2)

    def describe(self) -> dict[str, Any]:
        return {"model": "words"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(5):
        write(folder / f"{number}.txt", f"text number {number}")
    return folder


def write(path: Path, text: str, age: float = 100) -> None:
    """A file that was changed some seconds ago, so that its time can be relied on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline.create(tmp_path / "store", Words(), None, chunk_tokens=8, chunk_overlap=0) as pipeline:
        seen(pipeline)
        yield pipeline


def seen(pipeline: Pipeline) -> list[str]:
    embedder = pipeline.embedder
    assert isinstance(embedder, Words)
    texts, embedder.seen = embedder.seen, []
    return texts


def ids(pipeline: Pipeline, folder: Path) -> list[str]:
    names = (
        name for path in pipeline.store.sources.all([str(folder)]) for name in pipeline.store.sources.documents(path)
    )
    return sorted(str(Path(name).relative_to(folder)) for name in names)


def test_new_changed_and_vanished_files(pipeline: Pipeline, folder: Path) -> None:
    report = pipeline.sync(folder)
    assert (report.documents, report.embedded, report.files) == (5, 5, 5)
    assert len(seen(pipeline)) == 5
    write(folder / "1.txt", "another text", age=50)
    (folder / "2.txt").unlink()
    write(folder / "new.txt", "something new")
    report = pipeline.sync(folder)
    assert (report.documents, report.removed, report.files, report.files_unchanged) == (2, 1, 2, 3)
    assert sorted(seen(pipeline)) == ["1\nanother text", "new\nsomething new"]
    assert ids(pipeline, folder) == ["0.txt", "1.txt", "3.txt", "4.txt", "new.txt"]
    assert len(pipeline) == 5
    assert pipeline.verify() == []


def test_unchanged_files_are_not_opened_and_touched_ones_only_hashed(
    pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.sync(folder)
    opened: list[str] = []

    def note(path: Path) -> BinaryIO:
        opened.append(path.name)
        return open_file(path)

    monkeypatch.setattr(files, "open_file", note)
    monkeypatch.setattr(planning, "open_file", note)
    assert pipeline.sync(folder).files_unchanged == 5
    assert opened == []
    os.utime(folder / "3.txt", (time.time() - 30,) * 2)
    report = pipeline.sync(folder)
    assert (opened, report.files, report.files_unchanged) == (["3.txt"], 0, 5)
    opened.clear()
    pipeline.sync(folder)
    assert opened == []


def test_a_change_that_leaves_size_and_time_as_they_were_is_found_while_that_is_possible(
    pipeline: Pipeline, folder: Path
) -> None:
    write(folder / "0.txt", "text number 0", age=0)
    pipeline.sync(folder)
    status = (folder / "0.txt").stat()
    (folder / "0.txt").write_text("text number 9")
    os.utime(folder / "0.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert pipeline.sync(folder).documents == 1


@pytest.mark.parametrize("name", ["sub/0.txt", "renamed.txt"])
def test_moved_files_are_not_embedded_again(pipeline: Pipeline, folder: Path, name: str) -> None:
    pipeline.sync(folder)
    before = pipeline.store.known_vectors([row.digest for row in pipeline.store.rows_of(str(folder / "0.txt"))])
    seen(pipeline)
    (folder / "sub").mkdir()
    (folder / "0.txt").rename(folder / name)
    assert pipeline.sync(folder, dry_run=True).actions == (("moved", f"{folder}/0.txt -> {folder / name}"),)
    report = pipeline.sync(folder)
    assert (report.moved, report.embedded, seen(pipeline)) == (1, 0, [])
    assert name in ids(pipeline, folder)
    assert len(pipeline) == 5
    (row,) = pipeline.store.rows_of(str(folder / name))
    np.testing.assert_array_equal(row.vector, before[row.digest])
    (document,) = pipeline.get([str(folder / name)])
    assert document is not None
    assert (document.title, document.source) == (Path(name).stem, str(folder / name))
    assert pipeline.verify() == []


def test_a_dry_run_says_and_does_nothing(pipeline: Pipeline, folder: Path) -> None:
    pipeline.sync(folder)
    commit = pipeline.info()["commit"]
    write(folder / "1.txt", "another text")
    (folder / "2.txt").unlink()
    write(folder / "new.txt", "something new")
    report = pipeline.sync(folder, dry_run=True)
    assert report.actions == (
        ("new", str(folder / "new.txt")),
        ("changed", str(folder / "1.txt")),
        ("removed", str(folder / "2.txt")),
    )
    assert pipeline.info()["commit"] == commit
    assert len(pipeline) == 5


def test_lines_that_vanish_from_a_file_vanish_from_the_store(pipeline: Pipeline, folder: Path) -> None:
    def lines(*names: str) -> str:
        rows = ({"_id": n, "text": f"line {n}", "source": "https://example.org"} for n in names)
        return "\n".join(map(json.dumps, rows))

    write(folder / "l.jsonl", lines("a", "b", "c"))
    pipeline.sync(folder)
    seen(pipeline)
    write(folder / "l.jsonl", lines("a", "c", "d"), age=50)
    report = pipeline.index(folder)
    assert (report.documents, report.unchanged, report.removed) == (1, 2, 1)
    assert seen(pipeline) == ["line d"]
    (folder / "l.jsonl").rename(folder / "m.jsonl")
    assert pipeline.sync(folder).embedded == 0
    assert pipeline.get(["a", "b", "d"])[1] is None
    assert None not in pipeline.get(["a", "c", "d"])
    (folder / "m.jsonl").unlink()
    assert pipeline.sync(folder).removed == 3


def test_documents_added_otherwise_are_left_alone(pipeline: Pipeline, folder: Path) -> None:
    pipeline.add([Document("mine", "own", source=str(folder / "never.txt"))])
    pipeline.sync(folder)
    pipeline.sync(folder)
    assert pipeline.get(["own"]) != [None]


def test_nothing_is_removed_because_it_could_not_be_read(
    pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "sub/x.txt", "in the folder below")
    pipeline.sync(folder)
    real = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = pipeline.sync(folder)
    assert report.skipped == ((str(folder / "sub"), "folder: Permission denied"),)
    assert (report.removed, len(pipeline)) == (0, 6)
    with pytest.raises(IngestError, match=r"sub: folder: Permission denied"):
        pipeline.sync(folder, strict=True)
    monkeypatch.undo()
    write(folder / "1.txt", "now\x00binary", age=50)
    report = pipeline.sync(folder)
    assert [(path, report.removed) for path, _ in report.skipped] == [(str(folder / "1.txt"), 0)]
    assert pipeline.get([str(folder / "1.txt")])[0] == Document(
        "text number 1", str(folder / "1.txt"), "1", str(folder / "1.txt")
    )
    shutil.rmtree(folder)
    with pytest.raises(IngestError, match="docs: no such file or folder"):
        pipeline.sync(folder)
    assert len(pipeline) == 6


def test_an_empty_root_may_be_a_drive_that_is_not_there(pipeline: Pipeline, folder: Path) -> None:
    write(folder / "sub/x.txt", "in the folder below")
    pipeline.sync(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    report = pipeline.sync(folder)
    ((path, reason),) = report.skipped
    assert (path, report.removed, len(pipeline)) == (str(folder), 0, 6)
    assert reason.startswith("folder: empty, though 6 files were read from it")
    (folder / "sub").mkdir()
    (folder / "new.txt").write_text("here again")
    assert pipeline.sync(folder).removed == 6, "what is left shows that the folder is there"
    (folder / "new.txt").unlink()
    (folder / "sub").rmdir()
    assert pipeline.sync(folder, emptied=True).removed == 1
    assert len(pipeline) == 0
    assert pipeline.sync(folder).skipped == ()


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_files_and_folders_without_permission_are_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for path in ("open.txt", "shut.txt", "below/x.txt"):
            write(folder / path, "text")
        (folder / "shut.txt").chmod(0)
        (folder / "below").chmod(0)
        privileged = os.geteuid() == 0
        if privileged:  # to whom permissions mean nothing
            os.seteuid(65534)
        try:
            plan = look([folder], Selection(), {}, remove=True)
            with pytest.raises(IngestError, match=r"shut\.txt: cannot be read: Permission denied"):
                list(read(folder / "shut.txt"))
        finally:
            if privileged:
                os.seteuid(0)
            (folder / "below").chmod(0o700)
        assert plan.skipped == [(str(folder / "below"), "folder: Permission denied")]
        assert [entry.path.name for entry in plan.new] == ["open.txt", "shut.txt"]


def test_a_file_deleted_or_changed_half_way_is_said_and_read_by_the_next_run(
    pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = batches.read

    def meddle(path: Path, *limits: float) -> Iterator[Any]:
        if path.name == "1.txt":
            path.unlink()
        parsed = list(real(path, *limits))
        if path.name == "2.txt":
            write(path, "changed meanwhile", age=10)
        yield from parsed

    monkeypatch.setattr(batches, "read", meddle)
    report = pipeline.sync(folder)
    assert [(Path(path).name, why.split(";")[0]) for path, why in report.skipped] == [
        ("1.txt", "cannot be read: No such file or directory"),
        ("2.txt", "changed while it was read"),
    ]
    monkeypatch.undo()
    pipeline.sync(folder)
    (document,) = pipeline.get([str(folder / "2.txt")])
    assert document is not None
    assert document.text == "changed meanwhile"
    assert len(pipeline) == 4


def test_a_broken_file_leaves_nothing_half_done(pipeline: Pipeline, folder: Path) -> None:
    write(folder / "l.jsonl", "".join(f'{{"_id": "{n}", "text": "line {n}"}}\n' for n in range(500)) + "broken")
    report = pipeline.sync(folder)
    assert [why for _, why in report.skipped] == [
        f"{folder}/l.jsonl:501: not JSON: Expecting value: line 1 column 1 (char 0)"
    ]
    assert len(pipeline) == 5


def test_files_are_read_again_if_asked_and_what_comes_out_the_same_keeps_its_vectors(
    pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pipeline.sync(folder)
    again = pipeline.sync(folder, reread=True)
    assert (again.files, again.documents, again.embedded) == (first.files, first.documents, 0)
    monkeypatch.setitem(readers._registered, ".txt", lambda file: [Document(f"Anew: {file.text}", title=file.stem)])
    assert pipeline.sync(folder).documents == 0
    assert pipeline.sync(folder, reread=True).embedded > 0
    assert any(hit.text.startswith("Anew: ") for hit in pipeline.search("anew", mode="lexical"))


def test_kinds_that_are_not_read_are_counted_and_not_opened_again(
    pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    os.utime(folder / "a.png", (0, 0))
    report = pipeline.sync(folder)
    assert (report.ignored, report.skipped) == ({".png": 1}, ())
    assert pipeline.sync(folder).files_unchanged == 6
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    ((path, why),) = pipeline.index(folder / "b.png").skipped
    assert path == str(folder / "b.png")
    assert why.startswith("unsupported file type; supported suffixes: ")


def test_what_a_selection_no_longer_holds_is_removed(pipeline: Pipeline, folder: Path) -> None:
    pipeline.sync(folder)
    assert pipeline.sync(folder, exclude=["1.*", "2.*"]).removed == 2
    assert ids(pipeline, folder) == ["0.txt", "3.txt", "4.txt"]
    assert pipeline.sync(folder / "0.txt").removed == 0, "other files are none of its business"


def test_a_document_of_many_passages_is_written_whole(
    pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH", 4)
    text = " ".join(f"Sentence number {n} stands here by itself." for n in range(3000))
    write(folder / "book.txt", text)
    report = pipeline.sync(folder)
    assert report.embedded == report.passages == len(seen(pipeline)) > 2000
    rows = pipeline.store.rows_of(str(folder / "book.txt"))
    numbers = list(pipeline.store.passages(range(report.passages)).values())
    texts = {p.start: p.text for p in numbers if p.document_id == str(folder / "book.txt")}
    assert texts == {row.start: text[row.start : row.stop] for row in rows}
    hit = pipeline.search("number 2999", mode="lexical", rerank=False)[0]
    assert text[hit.start : hit.end] == hit.text
    assert "number 2999 stands" in hit.text
    wide = pipeline.search("number 2999", mode="lexical", rerank=False, neighbours=2)[0]
    assert text[wide.start : wide.end] == wide.text
    assert len(wide.text) > len(hit.text)


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from ingest import test_sync
from qwen3_rag import Pipeline
from qwen3_rag.ingest import batches
batches.BATCH = 16

class Mortal(test_sync.Words):
    def encode_document(self, texts, show_progress=False):
        if isinstance(texts, str):  # to see whether it is the same embedder
            return super().encode_document(texts)
        with open({log!r}, "a") as log:
            log.write("\\n".join(map(repr, texts)) + "\\n")
        if sum(1 for _ in open({log!r})) > int(sys.argv[1]):
            os.kill(os.getpid(), 9)
        return super().encode_document(texts)

with Pipeline.open({store!r}, embedder=Mortal()) as pipeline:
    pipeline.sync({folder!r})
"""


def test_a_run_that_is_killed_goes_on_where_it_was(pipeline: Pipeline, folder: Path, tmp_path: Path) -> None:
    write(folder / "book.txt", " ".join(f"Sentence number {n} stands here by itself." for n in range(200)))
    write(folder / "l.jsonl", "".join(f'{{"_id": "{n}", "text": "line {n}"}}\n' for n in range(200)))
    pipeline.close()
    log = tmp_path / "embedded"
    script = KILLED.format(
        tests=str(Path(__file__).parents[1]), log=str(log), store=str(tmp_path / "store"), folder=str(folder)
    )
    for limit in (60, 180, 330, 10_000):
        done = subprocess.run([sys.executable, "-c", script, str(limit)], capture_output=True, text=True)
        assert done.returncode == (-9 if limit < 10_000 else 0), done.stderr
    with Pipeline.open(tmp_path / "store", embedder=Words()) as again:
        passages = again.info()["passages"]
        assert again.verify() == []
    embedded = log.read_text().splitlines()
    assert passages == len(set(embedded)) > 400
    # At each kill the batch that was being embedded, and the one that was being written meanwhile.
    assert len(embedded) <= passages + 3 * 2 * 16


def test_a_watched_folder_is_kept_in_step(pipeline: Pipeline, folder: Path) -> None:
    reports = pipeline.watch(folder)
    assert next(reports).documents == 5
    timer = threading.Timer(0.5, lambda: (folder / "late.txt").write_text("came later"))
    timer.start()
    assert next(reports).documents == 1
    assert len(pipeline) == 6


def test_a_missing_package_is_named_with_its_command_once_and_the_files_are_tried_again(
    pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(file: files.File) -> Iterator[Document]:
        raise MissingDependencyError("film", "reading films", 'pip install "qwen3-rag[ingest]"')
        yield

    monkeypatch.setitem(readers._registered, ".film", missing)
    for name in "abc":
        write(folder / f"{name}.film", "text")
    for _ in range(2):
        reasons = [reason for _, reason in pipeline.sync(folder).skipped]
        short = "reading films needs the package 'film'"
        assert reasons == [f'{short}, which is not installed: pip install "qwen3-rag[ingest]"', short, short]


def test_broken_gzip_is_not_read_again_until_its_content_changes(pipeline: Pipeline, folder: Path) -> None:
    (folder / "a.txt.gz").write_bytes(gzip.compress(b"text " * 1000)[:-10])
    os.utime(folder / "a.txt.gz", (0, 0))
    first = pipeline.sync(folder)
    again = pipeline.sync(folder)
    assert (again.skipped, again.files_unchanged) == (first.skipped, 6)
    assert "broken gzip" in first.skipped[0][1]
