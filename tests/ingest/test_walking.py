import os
import time
from pathlib import Path

import pytest

from qwen3_rag.errors import IngestError, InvalidArgumentError
from qwen3_rag.index.database import FILE
from qwen3_rag.ingest.walking import Selection, Walk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.txt", "b.md", "sub/c.txt", "sub/deep/d.md", ".hidden/e.txt", ".f.txt", "build/g.txt", "store/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "store" / FILE).write_text("")
    return tmp_path


def names(root: Path, **options: object) -> list[str]:
    return [str(entry.path.relative_to(root)) for entry in Walk([root], Selection(**options))]  # type: ignore[arg-type]


def test_files_come_in_order_without_hidden_ones_and_stores(folder: Path) -> None:
    assert names(folder) == ["a.txt", "b.md", "build/g.txt", "sub/c.txt", "sub/deep/d.md"]
    assert {".f.txt", ".hidden/e.txt"} < set(names(folder, hidden=True))


def test_globs_choose_files_and_folders(folder: Path) -> None:
    assert names(folder, include=["*.md"]) == ["b.md", "sub/deep/d.md"]
    assert names(folder, exclude=["build/", "/sub/deep"]) == ["a.txt", "b.md", "sub/c.txt"]
    assert names(folder, include=["*.txt"], exclude=["sub"]) == ["a.txt", "build/g.txt"]
    with pytest.raises(InvalidArgumentError, match=r"include is the single text '\*\.md'"):
        Selection(include="*.md")  # type: ignore[arg-type]


def test_gitignore_files_hold_from_their_folder_down_and_the_nearest_decides(folder: Path) -> None:
    (folder / ".gitignore").write_text("build/\n*.md\n")
    (folder / "sub" / ".gitignore").write_text("!d.md\n/c.txt\n")
    assert names(folder) == ["a.txt", "sub/deep/d.md"]
    assert len(names(folder, ignored=True)) == 5
    assert names(folder / "sub") == ["deep/d.md"]
    (folder / ".git").mkdir()
    (folder / "sub" / ".gitignore").unlink()
    assert names(folder / "sub") == ["c.txt"], "rules of the repository hold in its folders"


def test_links_are_followed_when_asked_and_never_in_a_circle(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "o.txt").write_text("x")
    (folder / "out").symlink_to(outside)
    (folder / "sub" / "round").symlink_to(folder)
    (folder / "h.txt").symlink_to(outside / "o.txt")
    (folder / "dangling.txt").symlink_to(folder / "nowhere")
    assert not {"out/o.txt", "h.txt"} & set(names(folder))
    walk = Walk([folder], Selection(follow_links=True))
    paths = [str(f.path.relative_to(folder)) for f in walk]
    assert {"out/o.txt", "h.txt"} < set(paths)
    assert sum(name.endswith("a.txt") for name in paths) <= 2
    assert any("links to a folder that contains it" in why for _, why in walk.skipped)
    assert any(path.endswith("dangling.txt") for path, _ in walk.skipped)


def test_what_cannot_be_named_or_listed_is_skipped_and_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    os.mkfifo(folder / "pipe")
    real = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    walk = Walk([folder])
    assert [f.path.name for f in walk] == ["a.txt", "b.md", "g.txt"]
    assert walk.unread == [folder / "sub"]
    reasons = [why for _, why in walk.skipped]
    assert reasons == ["name is not valid UTF-8", "not a regular file: a named pipe", "folder: Permission denied"]


def test_roots_are_checked_and_resolved(folder: Path) -> None:
    assert Walk.roots_of([folder / "sub" / ".." / "a.txt", folder / "a.txt"]) == [folder / "a.txt"]
    with pytest.raises(IngestError, match="nowhere: no such file or folder"):
        Walk.roots_of([folder / "nowhere"])
    (folder / "x").symlink_to(folder / "y")
    (folder / "y").symlink_to(folder / "x")
    with pytest.raises(IngestError, match=r"x: "):
        Walk.roots_of([folder / "x"])


def test_a_gitignore_with_hostile_or_broken_lines_is_read_in_linear_time(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_bytes(
        b"a*a*a*a*a*a*a*a*a*a*a*a*a*a*b\n[z-a]h\n[[:alpha:]x\r\n*.log\r\nname\x85with\xc2\x85nel\n!keep.log\n"
        + b"\xff\xfe\n"
    )
    for name in ("a" * 80, "zh", "x.log", "keep.log", "with"):
        (tmp_path / name).write_text("text")
    started = time.monotonic()
    assert sorted(file.path.name for file in Walk([tmp_path])) == ["a" * 80, "keep.log", "with", "zh"]
    assert time.monotonic() - started < 5


def test_a_hostile_glob_is_matched_in_linear_time_and_a_broken_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ("a" * 80)).write_text("text")
    assert list(Walk([tmp_path], Selection(include=("a*" * 20 + "b",)))) == []
    with pytest.raises(InvalidArgumentError, match=r"exclude is \('\[z-a\]',\)"):
        Selection(exclude=("[z-a]",))
