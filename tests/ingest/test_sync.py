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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from qwen3_rag import Document, Pipeline
from qwen3_rag.errors import IngestError, InvalidArgumentError, MissingDependencyError
from qwen3_rag.ingest import batches, files, planning, readers, recutting
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


def records(*names: str) -> str:
    """Lines that are the same in every file, because they have a source of their own."""
    return "\n".join(json.dumps({"_id": name, "text": f"line {name}", "source": "https://x"}) for name in names)


def test_a_record_that_several_files_have_stays_until_the_last_of_them_loses_it(
    pipeline: Pipeline, folder: Path
) -> None:
    for name in "abc":
        write(folder / f"{name}.jsonl", records("shared", f"own {name}"))
    report = pipeline.sync(folder)
    assert report.skipped == pipeline.sync(folder, strict=True).skipped == ()
    (folder / "c.jsonl").unlink()
    pipeline.sync(folder)
    assert pipeline.get(["shared"]) != [None]
    write(folder / "b.jsonl", records("own b"), age=50)
    pipeline.sync(folder)
    assert pipeline.get(["shared"]) != [None]
    assert pipeline.sync(folder).files == 0, "nothing is read again without a change"
    write(folder / "a.jsonl", records("own a"), age=50)
    pipeline.sync(folder)
    assert pipeline.get(["shared", "own c"]) == [None, None]
    assert None not in pipeline.get(["own a", "own b"])


def test_files_below_a_link_that_leads_nowhere_stay(pipeline: Pipeline, folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "target/far.txt", "far away")
    (folder / "link").symlink_to(tmp_path / "target")
    pipeline.sync(folder, follow_links=True)
    (tmp_path / "target").rename(tmp_path / "away")
    report = pipeline.sync(folder, follow_links=True)
    assert (report.removed, len(pipeline)) == (0, 6)


def test_strict_is_about_what_cannot_be_read_not_about_what_is_gone(pipeline: Pipeline, folder: Path) -> None:
    pipeline.sync(folder)
    for number in range(4):
        (folder / f"{number}.txt").unlink()
    assert pipeline.sync(folder, strict=True).withheld == 4


def test_documents_added_by_hand_are_neither_replaced_nor_removed(pipeline: Pipeline, folder: Path) -> None:
    mine = [Document("mine", "own", source=str(folder / "never.txt")), Document("line a", "a"), Document("mine", "b")]
    pipeline.add(mine)
    write(folder / "l.jsonl", records("a", "b", "c"))
    report = pipeline.sync(folder)
    reason = "documents such as 'a' were added by hand; these stay"
    assert (report.skipped, report.documents) == (((str(folder / "l.jsonl"), reason),), 6)
    write(folder / "l.jsonl", records("c"), age=50)
    pipeline.sync(folder)
    (folder / "l.jsonl").unlink()
    assert pipeline.sync(folder).removed == 1
    assert pipeline.get(["own", "a", "b", "c"]) == [*mine, None]
    (folder / "1.txt").rename(folder / "moved.txt")
    precious = Document("precious", str(folder / "moved.txt"))
    pipeline.add([precious])
    for _ in range(2):
        ((path, reason),) = pipeline.sync(folder).skipped
        assert (path, "added by hand" in reason) == (precious.id, True), "said by every run"
    assert pipeline.get([precious.id]) == [precious]
    pipeline.delete([precious.id])
    pipeline.sync(folder)
    (document,) = pipeline.get([precious.id])
    assert document is not None
    assert document.text == "text number 1", "the file takes the place that is free now"


def test_a_record_that_moves_to_another_file_stays(pipeline: Pipeline, folder: Path) -> None:
    """Even if the file that lost it is read after the one that has it now, in the same commit or a later one."""
    for name, others in (("a", "z"), ("z", "a")):
        write(folder / f"{name}.jsonl", records("moves", f"own {name}"))
        write(folder / f"{others}.jsonl", records(f"own {others}"))
        pipeline.sync(folder)
        write(folder / f"{name}.jsonl", records(f"own {name}"), age=50)
        write(folder / f"{others}.jsonl", records("moves", f"own {others}"), age=50)
        pipeline.sync(folder)
        assert None not in pipeline.get(["moves", "own a", "own z"])
        for each in "az":
            (folder / f"{each}.jsonl").unlink()
        pipeline.sync(folder)
        assert pipeline.get(["moves", "own a", "own z"]) == [None] * 3


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


def test_a_root_of_which_most_is_gone_may_be_a_drive_that_is_not_there(pipeline: Pipeline, folder: Path) -> None:
    write(folder / "sub/x.txt", "in the folder below")
    pipeline.sync(folder)
    for number in range(3):
        (folder / f"{number}.txt").unlink()
    assert (pipeline.sync(folder).removed, len(pipeline)) == (3, 3), "half of them is not most of them"
    shutil.rmtree(folder)
    folder.mkdir()
    write(folder / "new.txt", "other files are there")
    report = pipeline.sync(folder)
    reason = "3 of 3 files read from it are gone or left out now, so nothing of it was removed; force removes"
    assert report.skipped == ((str(folder), reason),)
    assert (report.removed, report.withheld, report.documents, len(pipeline)) == (0, 3, 1, 4)
    assert pipeline.sync(folder, dry_run=True).withheld == 3
    assert pipeline.sync(folder, force=True).removed == 3
    assert pipeline.sync(folder).skipped == ()


def test_moved_files_do_not_count_as_gone(pipeline: Pipeline, folder: Path) -> None:
    pipeline.sync(folder)
    (folder / "new").mkdir()
    for number in range(5):
        (folder / f"{number}.txt").rename(folder / f"new/{number}.txt")
    report = pipeline.sync(folder)
    assert (report.moved, report.withheld, len(pipeline)) == (5, 0, 5)


def test_each_root_is_judged_by_itself(pipeline: Pipeline, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other / "1.txt", "a file elsewhere")
    pipeline.sync([folder, other])
    (other / "1.txt").unlink()
    (folder / "1.txt").unlink()
    report = pipeline.sync([folder, other])
    assert (report.removed, report.withheld) == (1, 1)
    assert [path for path, _ in report.skipped] == [str(other)]
    assert pipeline.sync(folder).withheld == 0, "a root that is not synchronised is left alone"
    assert len(pipeline) == 5


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


def reports_of(pipeline: Pipeline, folder: Path, until: Callable[[], bool]) -> None:
    """Watch the folder in this thread until something is so, or half a minute has passed."""
    end = time.monotonic() + 30
    for _ in pipeline.watch(folder):
        if until() or time.monotonic() > end:
            return


def test_a_watched_folder_that_is_replaced_is_watched_again(pipeline: Pipeline, folder: Path) -> None:
    write(folder / "stays.txt", "stays")
    changes = iter([
        lambda: (folder.rename(folder.with_name("away")), time.sleep(1.5)),
        lambda: (folder.mkdir(), [write(folder / f"{n}.txt", f"text number {n}") for n in range(5)]),
        lambda: (time.sleep(1.5), write(folder / "new.txt", "in the new folder")),
    ])  # fmt: skip

    def change() -> None:
        for each in changes:
            each()

    thread = threading.Timer(1, change)
    thread.start()
    reports_of(pipeline, folder, lambda: pipeline.get([str(folder / "new.txt")]) != [None])
    thread.join()
    assert pipeline.get([str(folder / "new.txt")]) != [None]
    assert len(pipeline) == 6, "what was gone for a moment was embedded once, and what is not there now was removed"


def test_a_file_that_is_being_written_waits_until_it_is_quiet(pipeline: Pipeline, folder: Path) -> None:
    path = folder / "growing.txt"

    def grow() -> None:
        for number in range(8):
            with path.open("a") as file:
                file.write(f"line {number}\n\n")
            time.sleep(0.5)

    thread = threading.Timer(0.5, grow)
    thread.start()
    reports_of(pipeline, folder, lambda: pipeline.get([str(path)]) != [None])
    thread.join()
    (document,) = pipeline.get([str(path)])
    assert document is not None
    assert document.text.count("line") == 8, "it was read once, when it was whole"


def test_a_root_that_goes_while_it_is_read_loses_nothing(
    pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.sync(folder)
    folders = pipeline._folders(folder, True, {})
    folder.rename(folder.with_name("away"))
    report = folders.run(False)
    assert (report.removed, report.withheld, len(pipeline)) == (0, 0, 5)
    assert report.skipped == ((str(folder), "No such file or directory"),)


def test_errors_of_content_are_remembered_until_it_changes_or_a_retry(
    pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "broken.jsonl", '{"text": "one"}\n{"text": ')
    write(folder / "broken.csv", "a,b\n1,2,3\n")
    write(folder / "binary.txt", "a\x00b")
    assert len(pipeline.sync(folder).skipped) == 3
    opened: list[str] = []
    monkeypatch.setattr(batches, "read", lambda path, *rest: opened.append(path.name) or read(path, *rest))
    report = pipeline.sync(folder)
    assert (len(report.skipped), opened) == (3, [])
    unreadable = pipeline.status()["unreadable"]
    assert sorted(Path(path).name for path in unreadable) == ["binary.txt", "broken.csv", "broken.jsonl"]
    assert "not JSON" in unreadable[str(folder / "broken.jsonl")]
    pipeline.sync(folder, retry=True)
    assert sorted(opened) == ["binary.txt", "broken.csv", "broken.jsonl"]
    write(folder / "broken.jsonl", '{"text": "one"}', age=50)
    assert pipeline.sync(folder).documents == 1
    assert len(pipeline.status()["unreadable"]) == 2


def test_descriptions_of_paths_come_with_hits_the_longest_path_first(pipeline: Pipeline, folder: Path) -> None:
    write(folder / "sub/x.txt", "in the folder below")
    pipeline.sync(folder)
    pipeline.add([Document("added by hand", "notes/7")])
    pipeline.describe(folder, "all documents")
    pipeline.describe(str(folder / "sub") + "/", "  what is below ")
    pipeline.describe("notes", "by hand")
    pipeline.describe(folder / "su", "a name that only looks alike")
    contexts = {hit.document_id: hit.context for hit in pipeline.search("text", top_k=20)}
    assert contexts[str(folder / "sub/x.txt")] == ("what is below", "all documents")
    assert contexts[str(folder / "1.txt")] == ("all documents",)
    assert contexts["notes/7"] == ("by hand",)
    pipeline.describe(folder, None)
    assert len(pipeline.descriptions()) == 3
    for path, text in (("", "x"), ("a", " "), ("a", "two\nlines"), ("a", "x" * 501)):
        with pytest.raises(InvalidArgumentError, match="expected"):
            pipeline.describe(path, text)


def passages_of(pipeline: Pipeline) -> dict[str, list[tuple[int, int]]]:
    store = pipeline.store
    return {e.id: [(row.start, row.stop) for row in store.rows_of(e.id)] for e in pipeline.documents()}


def test_other_passages_are_those_of_a_new_store_and_embed_only_what_is_new(
    pipeline: Pipeline, folder: Path, tmp_path: Path
) -> None:
    write(
        folder / "guide.md", "# Guide\n\n" + "".join(f"## Part {n}\n\n{'Some words here. ' * n}\n\n" for n in range(9))
    )
    pipeline.sync(folder)
    pipeline.add([Document("added by hand " * 9, "hand")])
    before = passages_of(pipeline)
    seen(pipeline)
    report = pipeline.recut(chunk_tokens=16)
    changed = passages_of(pipeline)
    assert [name for name in before if before[name] != changed[name]] == [str(folder / "guide.md"), "hand"]
    assert (report.documents, report.unchanged, report.embedded) == (2, 5, len(set(seen(pipeline))))
    with Pipeline.create(tmp_path / "fresh", Words(), None, chunk_tokens=16, chunk_overlap=0) as fresh:
        fresh.sync(folder)
        fresh.add([Document("added by hand " * 9, "hand")])
        expected = passages_of(fresh)
    assert changed["hand"] == expected["hand"]
    assert pipeline.sync(folder).files_unchanged == 6
    pipeline.sync(folder, reread=True)
    assert passages_of(pipeline) == expected, "read again, files are cut as in a new store"
    assert pipeline.recut().documents == 0
    (folder / "guide.md").unlink()
    assert pipeline.sync(folder).removed == 1, "documents still belong to their files"
    assert pipeline.verify() == []
    with pytest.raises(InvalidArgumentError, match="titles passed; expected chunk_tokens, chunk_overlap, tables"):
        pipeline.recut(titles=False)


def test_an_interrupted_recut_goes_on_with_the_next_sync(
    pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number in range(6):
        write(folder / f"long {number}.txt", f"Text {number} is here. " * 20)
    pipeline.sync(folder)
    monkeypatch.setattr(recutting, "TOGETHER", 2)
    real, calls = pipeline.store.write, []

    def write_twice(*arguments: Any, **options: Any) -> int:
        calls.append(arguments)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(pipeline.store, "write", write_twice)
    with pytest.raises(KeyboardInterrupt):
        pipeline.recut(chunk_tokens=24)
    monkeypatch.undo()
    seen(pipeline)
    with Pipeline.open(tmp_path / "store", Words()) as again:
        again.sync(folder)
        sizes = {len(rows) for name, rows in passages_of(again).items() if "long" in name}
        assert len(sizes) == 1, "all are cut alike"
        assert again.settings.chunk_tokens == 24
        assert again.store.meta(recutting.RECUT) is None
