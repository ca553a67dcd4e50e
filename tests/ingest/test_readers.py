import os
from pathlib import Path

import pytest

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.readers import read_documents, source_files


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffplain text", encoding="utf-8")
    (tmp_path / "b.md").write_text("intro\n\n# The *title* #\n\nbody", encoding="utf-8")
    (tmp_path / "c.jsonl").write_text(
        '{"_id": 7, "title": "", "text": "beir", "year": 2020}\n\n{"id": "x", "text": "own", "metadata": {"a": 1}}\n'
    )
    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "sub" / ".git").mkdir(parents=True)
    (tmp_path / "sub" / ".git" / "x.txt").write_text("no")
    (tmp_path / "sub" / "image.png").write_bytes(b"\x89")
    files = source_files([tmp_path, tmp_path / "a.txt"])
    assert [f.name for f in files] == ["a.txt", "b.md", "c.jsonl", "empty.txt"]
    text, markdown, beir, own = (d for f in files for d in read_documents(f))
    assert (text.text, text.title, text.id) == ("plain text", "a", str(tmp_path / "a.txt"))
    assert (markdown.title, markdown.source) == ("The *title*", str(tmp_path / "b.md"))
    assert (beir.id, beir.title, dict(beir.metadata)) == ("7", None, {"year": 2020})
    assert (own.id, dict(own.metadata), own.source) == ("x", {"a": 1}, str(tmp_path / "c.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "ok"}\nnot json\n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b'["text"]\n', r'a\.jsonl:1: expected an object with a "text"'),
        ("a.jsonl", b'{"text": 3}\n', r'a\.jsonl:1: expected an object with a "text"'),
        ("a.jsonl", b'{"text": "x", "metadata": {"n": NaN}}\n', r"a\.jsonl:1: metadata .* is not JSON"),
        (
            "a.jsonl",
            b'{"text": "x", "metadata": "lang=en"}\n',
            r"a\.jsonl:1: metadata is 'lang=en'",
        ),
        ("a.jsonl", b'{"text": "x", "title": 3}\n', r"a\.jsonl:1: title is 3"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl:1: text has a lone surrogate at character 0"),
        ("a.txt", b"caf\xe9", r"a\.txt: not UTF-8 text at byte 3"),
        ("a.md", b"\xff\xfe", r"a\.md: not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(IngestError, match=message):
        list(read_documents(path))


def test_paths_that_cannot_serve_are_named(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match="nowhere: no such file or folder"):
        source_files([tmp_path / "nowhere"])
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(IngestError, match=r"no reader for \.xyz; known: \.jsonl \.txt"):
        source_files([tmp_path / "a.xyz"])
    if os.geteuid() != 0:
        (tmp_path / "b.txt").write_text("x")
        (tmp_path / "b.txt").chmod(0)
        with pytest.raises(IngestError, match="cannot be read"):
            list(read_documents(tmp_path / "b.txt"))
