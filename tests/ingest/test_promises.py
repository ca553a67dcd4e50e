"""What holds of every reader, whatever a file contains: sections in order, passages that lose nothing."""

import csv
import io
import json
from collections.abc import Callable
from email.message import EmailMessage
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest import office_samples as office
from ingest.samples import CODE, MARKDOWN, write_pdf
from ingest.test_chunking import Characters, count
from ingest.test_sync import Words
from qwen3_rag import Pipeline
from qwen3_rag.ingest.chunking import chunk, token_starts
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.ingest.readers import BUILT_IN, read

BLOCKS = [
    "Plain words. Two sentences!", "# Heading", "## Deeper *heading*", "Underlined\n==========", "- a\n- b\n  - c",
    "1. one\n2. two\n\n   more", "```\ncode = 1\n```", "| a | b |\n|---|---|\n| 1 | 2 |", "***", "> quoted\n> words",
    "<h2>Tag</h2><ul><li>x<li>y<ol><li>z</ol></ul>", "<table><tr><td>1<td>2</table><pre>p\n q</pre>", "中文。日本語。",
    "\r\nwindows\r\nlines\r\n", "é\u0301 𝒳", "x" * 90, "  def f(a):\n      return 1", "class A {\n  int b() {\n  }\n}",
    "function c()\n  1\nend", "\t", "/* note */", MARKDOWN[20:], CODE,
]  # fmt: skip


def mail(blocks: list[str]) -> bytes:
    message = EmailMessage()
    message["Subject"], message["From"] = "A subject", "a@example.org"
    message.set_content("\n\n".join(blocks))
    return message.as_bytes()


def book(blocks: list[str]) -> bytes:
    container = '<container><rootfiles><rootfile full-path="book.opf"/></rootfiles></container>'
    package = '<package><manifest><item id="a" href="a.xhtml"/></manifest><spine><itemref idref="a"/></spine></package>'
    page = f"<html><body>{''.join(blocks)}</body></html>"
    members = {"mimetype": "application/epub+zip", "META-INF/container.xml": container, "book.opf": package}
    return office.zipped({**members, "a.xhtml": page})


def rows(blocks: list[str], delimiter: str) -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([["text", "n"], *([block, 1] for block in blocks)])
    return out.getvalue().encode()


def notebook(blocks: list[str]) -> bytes:
    cells = [
        {"cell_type": ("markdown", "code")[n % 2], "source": block, "outputs": []} for n, block in enumerate(blocks)
    ]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}).encode()


def written(folder: Path, suffix: str, blocks: list[str]) -> Path:
    """A file of this kind with these texts."""
    path = folder / f"a{suffix}"
    plain = [escape("".join(c for c in block if c in "\n\t" or c.isprintable())) for block in blocks]
    if suffix == ".pdf":
        lines = [block.encode("ascii", "ignore").decode().replace("(", "").replace(")", "") for block in blocks]
        write_pdf(path, [line.replace("\\", "").replace("\r", "") for line in lines])
    elif suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": blocks}), path)
    elif suffix in MAKERS:
        path.write_bytes(MAKERS[suffix](plain if suffix in ESCAPED else blocks))
    else:
        path.write_bytes("\n\n".join(["Start.", *blocks]).encode())
    return path


ESCAPED = (".docx", ".pptx", ".xlsx")
MAKERS: dict[str, Callable[[list[str]], bytes]] = {
    ".docx": lambda blocks: office.word("".join(map(office.paragraph, blocks))),
    ".pptx": lambda blocks: office.powerpoint([office.slide(office.shape(block)) for block in blocks]),
    ".xlsx": lambda blocks: office.excel(
        {
            "S": office.sheet(
                "".join(f'<row><c t="inlineStr"><is><t>{b}</t></is></c><c><v>1</v></c></row>' for b in blocks)
            )
        }
    ),
    ".epub": book,
    ".eml": mail,
    ".mbox": lambda blocks: b"".join(b"From a@example.org Sat Jan  1\n" + mail([block]) + b"\n" for block in blocks),
    ".csv": lambda blocks: rows(blocks, ","),
    ".tsv": lambda blocks: rows(blocks, "\t"),
    ".json": lambda blocks: json.dumps({"key": blocks, "other": {"inner": blocks[:1]}}).encode(),
    ".jsonl": lambda blocks: "\n".join(json.dumps({"text": block}) for block in blocks).encode(),
    ".ndjson": lambda blocks: "\n".join(json.dumps({"text": block}) for block in blocks).encode(),
    ".ipynb": notebook,
    **dict.fromkeys(
        (".html", ".htm", ".xhtml"), lambda blocks: f"<html><body>{'<p>'.join(blocks)}</body></html>".encode()
    ),
}


def check(parsed: Parsed, size: int) -> None:
    text = parsed.document.text
    assert all(0 <= s.start < s.stop <= len(text) for s in parsed.parts if text.strip())
    assert all(one.stop <= other.start for one, other in pairwise(parsed.parts)), "in order, without overlap"
    assert all(s.heading_length <= s.stop - s.start for s in parsed.parts)
    left = np.array([not character.isspace() for character in text])
    for cut in chunk(parsed, token_starts(Characters(), text), size, size // 4):
        passage = text[cut.start : cut.stop]
        assert passage == passage.strip() != ""
        assert count(passage) <= size
        left[cut.start : cut.stop] = False
    assert not left.any(), "nothing is left out"


@pytest.mark.parametrize("suffix", sorted(BUILT_IN))
def test_reader_gives_sections_in_order_and_passages_that_lose_nothing(tmp_path: Path, suffix: str) -> None:
    @given(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=6), st.integers(20, 200))
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def every_document(blocks: list[str], size: int) -> None:
        documents = list(read(written(tmp_path, suffix, blocks)))
        assert documents or not "".join(blocks).strip()
        for parsed in documents:
            check(parsed, size)

    every_document()


def test_a_store_keeps_of_every_passage_the_text_that_lies_there_in_its_document(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for suffix in BUILT_IN:
        written(folder, suffix, BLOCKS)
    with Pipeline.create(tmp_path / "store", Words(), None, chunk_tokens=16, chunk_overlap=4) as pipeline:
        report = pipeline.index(folder)
        assert report.skipped == ()
        assert report.passages > 500
        passages = pipeline.store.passages(range(report.passages)).values()
        texts = {name: pipeline.get([name])[0] for name in {each.document_id for each in passages}}
        assert len(passages) == report.passages
        for each in passages:
            document = texts[each.document_id]
            assert document is not None
            assert document.text[each.start : each.start + len(each.text)] == each.text
