"""A folder of hostile and broken files: each is named with a reason, the rest is indexed, and nothing is left."""

import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.hostile import bomb, html_of_attributes, nested_html, write_hostile_pdfs
from ingest.samples import write_epub, write_pdf, write_word
from ingest.test_sync import Words, write
from qwen3_rag import Pipeline
from qwen3_rag.errors import IngestError
from qwen3_rag.ingest import batches
from qwen3_rag.ingest.files import File
from qwen3_rag.ingest.folders import Folders
from qwen3_rag.ingest.readers import read
from qwen3_rag.ingest.walking import Selection
from qwen3_rag.records import IndexReport

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them"),
]
SECONDS = 6  # that a parser may take here


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline.create(tmp_path / "store", Words(), None, chunk_tokens=64, chunk_overlap=0) as pipeline:
        yield pipeline


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def sync(pipeline: Pipeline, folder: Path, **options: object) -> IndexReport:
    assert isinstance(pipeline.embedder, Words)
    roots = [folder]
    return Folders(pipeline.store, pipeline.embedder, pipeline.settings, roots, seconds=SECONDS, **options).run(False)  # type: ignore[arg-type]


def reasons(report: IndexReport) -> dict[str, str]:
    return {Path(path).name: reason for path, reason in report.skipped}


def write_hostile(folder: Path) -> None:
    write_hostile_pdfs(folder)
    (folder / "attributes.html").write_text(html_of_attributes(200_000))
    (folder / "large.html").write_text("<html><body>" + "word " * (3 << 20))
    (folder / "nested.html").write_text(nested_html(10_000))
    (folder / "empty.html").write_text("")
    (folder / "empty.pdf").write_bytes(b"")
    (folder / "line.txt").write_bytes(b"word " * 4096)
    os.truncate(folder / "line.txt", 200 << 20)
    write_word(folder / "good.docx")
    (folder / "half.docx").write_bytes((folder / "good.docx").read_bytes()[:-2000])
    write_epub(folder / "good.epub")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket"))
    (folder / "circle").symlink_to("circle")
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("x")


def test_a_folder_of_hostile_files_is_indexed_and_each_is_named_with_a_reason(pipeline: Pipeline, folder: Path) -> None:
    write_hostile(folder)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    report = sync(pipeline, folder, selection=Selection(follow_links=True))
    assert time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10, "KiB"
    assert {name: why.split(";")[0] for name, why in reasons(report).items()} == {
        "truncated.pdf": "damaged PDF: Failed to load document (PDFium: Data format error).",
        "flipped.pdf": "damaged PDF: Failed to load document (PDFium: Data format error).",
        "encrypted.pdf": "encrypted: it needs a password",
        "bomb.pdf": "needed more than 1 GB of memory",
        "laughs.pdf": "needed more than 1 GB of memory",
        "attributes.html": f"took longer than {SECONDS} s",
        "large.html": "too large: more than 10 MiB, the maximum for HTML",
        "line.txt": "more than 64 MiB, the maximum for a file that is not streamed",
        "half.docx": "damaged Word document: File is not a zip file",
        "pipe": "not a regular file: a named pipe",
        "socket": "not a regular file: a socket",
        "circle": "Too many levels of symbolic links",
        "caf\\xe9.txt'": "name is not valid UTF-8",
    }
    names = {Path(path).name for path in pipeline.store.sources.all([str(folder)])}
    assert {"good.pdf", "good.docx", "good.epub", "nested.html"} <= names
    assert pipeline.verify() == []


def test_pages_before_a_failure_are_indexed_and_marked_partial(pipeline: Pipeline, folder: Path) -> None:
    (folder / "bomb.pdf").write_bytes(bomb(1 << 30))
    report = sync(pipeline, folder)
    (document,) = pipeline.get([str(folder / "bomb.pdf")])
    assert document is not None
    assert (document.text, document.metadata["partial"]) == ("A good first page.", reasons(report)["bomb.pdf"])
    hits = pipeline.search("first page", mode="lexical", rerank=False, filter={"partial": document.metadata["partial"]})
    assert {(hit.page, hit.text) for hit in hits} == {(1, "A good first page.")}


def test_a_file_that_cannot_be_read_is_not_tried_again_until_its_content_changes(
    pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pdf(folder / "a.pdf", ["secret"], password="open sesame")
    os.utime(folder / "a.pdf", (0, 0))
    first = sync(pipeline, folder)
    tried: list[str] = []
    real = batches.read
    monkeypatch.setattr(batches, "read", lambda path, *limits: (tried.append(path.name), real(path, *limits))[1])
    again = sync(pipeline, folder)
    os.utime(folder / "a.pdf", (1, 1))
    touched = sync(pipeline, folder)
    assert first.skipped == again.skipped == touched.skipped == ((str(folder / "a.pdf"), reasons(first)["a.pdf"]),)
    assert (again.files_unchanged, touched.files_unchanged, tried) == (1, 1, [])
    with pytest.raises(IngestError, match=r"a\.pdf: encrypted: it needs a password"):
        sync(pipeline, folder, strict=True)
    write_pdf(folder / "a.pdf", ["open"])
    assert (sync(pipeline, folder).documents, tried) == (1, ["a.pdf"])
    assert sync(pipeline, folder).skipped == ()


def test_strict_raises_for_a_file_that_is_read_in_part(pipeline: Pipeline, folder: Path) -> None:
    (folder / "bomb.pdf").write_bytes(bomb(1 << 30))
    with pytest.raises(IngestError, match=r"bomb\.pdf: needed more than 1 GB of memory"):
        sync(pipeline, folder, strict=True)
    assert len(pipeline) == 0


def test_memory_is_named_as_the_reason_in_a_program_that_uses_more_itself(pipeline: Pipeline, folder: Path) -> None:
    (folder / "bomb.pdf").write_bytes(bomb(1 << 30))
    models = bytearray(b"1") * 1_500_000_000
    with pytest.raises(IngestError, match=r"bomb\.pdf: needed more than 1 GB of memory"):
        sync(pipeline, folder, strict=True)
    assert len(models)


def test_a_file_that_became_unreadable_keeps_its_document(pipeline: Pipeline, folder: Path) -> None:
    write_pdf(folder / "a.pdf", ["open"])
    sync(pipeline, folder)
    write_pdf(folder / "a.pdf", ["secret"], password="open sesame")
    for _ in range(2):
        assert list(reasons(sync(pipeline, folder))) == ["a.pdf"]
        assert pipeline.get([str(folder / "a.pdf")]) != [None]
    (folder / "a.pdf").unlink()
    write(folder / "b.txt", "text")
    assert sync(pipeline, folder, force=True).removed == 1


def test_a_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "a.pdf")
    with pytest.raises(IngestError, match=r"a\.pdf: not a regular file"):
        list(read(folder / "a.pdf"))
    with pytest.raises(IngestError, match="not a regular file"):
        _ = File(folder / "a.pdf").bytes
