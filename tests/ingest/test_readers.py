"""Every kind of file as it is read: text, structure, and what is said where that fails."""

import gzip
import io
import json
import os
import resource
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.samples import CODE, MARKDOWN, PAGE, write_epub, write_pdf, write_word
from qwen3_rag import Document
from qwen3_rag.errors import IngestError, InvalidArgumentError
from qwen3_rag.ingest import readers
from qwen3_rag.ingest.files import ContentError, File
from qwen3_rag.ingest.parsed import Parsed, Section
from qwen3_rag.ingest.readers import read, reader


def one(path: Path) -> Parsed:
    (parsed,) = read(path)
    return parsed


def shown(parsed: Parsed) -> list[tuple[str, str, str]]:
    """Headings, kind and text of each section."""
    text = parsed.document.text
    return [(" > ".join(s.headings), s.kind, text[s.start : s.stop].strip()) for s in parsed.parts]


def test_plain_text_is_as_it_lies_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffline one\r\nline two".encode())
    document = one(tmp_path / "a.txt").document
    assert (document.text, document.title) == ("line one\r\nline two", "a")
    assert (document.id, document.source) == (str(tmp_path / "a.txt"),) * 2
    (tmp_path / "README").write_text("no suffix")
    assert one(tmp_path / "README").document.text == "no suffix"
    (tmp_path / "b.txt").write_text("  \n")
    assert list(read(tmp_path / "b.txt")) == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1252"])
def test_text_is_decoded_whatever_its_encoding(tmp_path: Path, encoding: str) -> None:
    text = "Die Pumpe wird über dem oberen Ventil entlüftet, größere Mengen fließen später nach. " * 5
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert one(tmp_path / "a.txt").document.text == text


def test_what_is_compressed_is_read_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "guide.md.gz").write_bytes(gzip.compress(b"# Guide\n\ntext"))
    assert (one(tmp_path / "guide.md.gz").document.title) == "Guide"
    (tmp_path / "half.txt.gz").write_bytes(gzip.compress(os.urandom(100_000).hex().encode())[:50_000])
    with pytest.raises(IngestError, match=r"half\.txt\.gz: broken gzip"):
        list(read(tmp_path / "half.txt.gz"))


def test_markdown_has_headings_listings_and_tables(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(MARKDOWN)
    parsed = one(tmp_path / "a.md")
    assert (parsed.document.text, parsed.document.title) == (MARKDOWN, "Pump manual")
    assert shown(parsed) == [
        ("Bleeding", "prose", "# Bleeding\n\nThe pump is bled at the *upper* valve."),
        ("Bleeding", "code", "```python\n# not a heading\nbleed()\n```"),
        ("Bleeding > Tools of all sorts", "prose", "Tools of `all` sorts\n--------------------"),
        ("Bleeding > Tools of all sorts", "table", "| tool | size |\n|------|------|\n| spanner | 12 mm |"),
        ("Bleeding > Tools of all sorts", "prose", "After the table."),
    ]
    (tmp_path / "b.md").write_bytes(b"intro\r\n\r\n## One\r\n\r\ntext\r### Two\rmore")
    parsed = one(tmp_path / "b.md")
    assert [(heading, text) for heading, _, text in shown(parsed)] == [
        ("", "intro"),
        ("", "## One\r\n\r\ntext"),
        ("Two", "### Two\rmore"),
    ]


def test_html_is_what_a_reader_of_the_page_reads(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    parsed = one(tmp_path / "a.html")
    assert parsed.document.title == "Pump — manual"
    assert shown(parsed) == [
        ("", "prose", "Pump\n\nThe pump is bled at the upper\u00a0valve."),
        ("Tools", "prose", "Tools"),
        ("Tools", "list", "- Spanner\n- Bucket"),
        ("Tools", "table", "tool | size\nspanner | 12 mm"),
        ("Tools", "code", "bleed(\n    valve)"),
    ]
    (tmp_path / "page").write_bytes(b"<html><meta charset=iso-8859-2><body>" + "žluťoučký kůň".encode("iso-8859-2"))
    assert one(tmp_path / "page").document.text == "žluťoučký kůň"
    (tmp_path / "deep.html").write_text("<html><body>" + "<div>" * 20_000 + "text")
    assert one(tmp_path / "deep.html").document.text == "text"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<header>site</header><p>a</p><aside>advert</aside><footer>imprint</footer>", "a"),
        ("<article><header><h1>A</h1></header><aside>note</aside><footer>signed</footer></article>", "A|note|signed"),
        ("<section><header>b</header></section><section>c</section>", "b|c"),
        ('<div class="content has-sidebar nav-open">all of it</div>', "all of it"),
        ('<ul class="docnav top"><li>Prev</ul><p>the text</p><table class="nav"><tr><td>Next</table>', "the text"),
        ('<div class="toc"><p>One</p><p>Two</p></div>', "One|Two"),
        ("<form id=aspnet><div>the page</div><select><option>1</select><button>go</button></form>", "the page"),
        ("<p>a</p><div role=tabpanel hidden>second tab</div><div hidden>template</div>", "a|second tab"),
        ('<p>so <math alttext="x^2"><mi>x</mi><mn>2</mn></math> it is</p>', "so x^2 it is"),
        (
            '<p>so <span><math><mi>x</mi><annotation encoding="application/x-tex">x_1</annotation></math></span>'
            '<span aria-hidden="true">x1</span> it is</p>',
            "so x_1 it is",
        ),
    ],
)
def test_of_a_page_its_content_is_read_and_no_more(tmp_path: Path, body: str, text: str) -> None:
    (tmp_path / "a.html").write_text(f"<html><body>{body}</body></html>")
    read = one(tmp_path / "a.html").document.text
    assert read.split("\n\n") == text.split("|")


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Release 2.1\n===========\n\nIt is faster.\n", "Release 2.1"),
        ("\n=======\n Notes \n=======\nIt is.\n", "Notes"),
        ("Dear all\nwe are\n=====\n", "a"),
        ("---\nkey: value\n---\ntext", "a"),
        ("one line", "a"),
    ],
)
def test_an_underlined_first_line_is_a_title(tmp_path: Path, text: str, title: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert (one(tmp_path / "a.txt").document.title, one(tmp_path / "a.txt").document.text) == (title, text)


def test_pdf_has_pages_and_its_outline(tmp_path: Path) -> None:
    pages = ["Bleeding\nThe pump is bled.", "Tools\nA spanner and\na bucket."]
    write_pdf(tmp_path / "a.pdf", pages, [("Bleeding", 0), ("Tools", 1)])
    parsed = one(tmp_path / "a.pdf")
    assert parsed.document.text == "\n\n".join(pages)
    assert shown(parsed) == [("Bleeding", "prose", pages[0]), ("Tools", "prose", pages[1])]
    assert [parsed.page(place) for place in (0, 27, 28, 40)] == [1, 1, 2, 2]
    (tmp_path / "a.pdf").rename(tmp_path / "scan.bin")
    assert one(tmp_path / "scan.bin").document.text == parsed.document.text, "told by its content"


def test_word_comes_with_headings_and_tables(tmp_path: Path) -> None:
    write_word(tmp_path / "a.docx")
    parsed = one(tmp_path / "a.docx")
    assert parsed.document.title == "Pump manual"
    assert shown(parsed) == [
        ("Bleeding", "prose", "Bleeding\n\nThe pump is bled at the upper valve."),
        ("Bleeding", "list", "1. Close the valve.\n2. Open the pump."),
        ("Bleeding > Tools", "prose", "Tools"),
        ("Bleeding > Tools", "table", "tool | size\nspanner | 12 mm"),
    ]


def test_epub_is_read_in_the_order_of_its_spine(tmp_path: Path) -> None:
    write_epub(tmp_path / "a.epub")
    parsed = one(tmp_path / "a.epub")
    assert parsed.document.title == "The pump"
    assert shown(parsed) == [
        ("First", "prose", "First\n\nHow it begins."),
        ("Second", "prose", "Second\n\nHow it ends."),
    ]


def test_an_epub_whose_type_does_not_come_first_is_one_all_the_same(tmp_path: Path) -> None:
    write_epub(tmp_path / "a.epub")
    with zipfile.ZipFile(tmp_path / "a.epub") as archive, zipfile.ZipFile(tmp_path / "b.epub", "w") as other:
        for name in reversed(archive.namelist()):
            other.writestr(name, archive.read(name))
    assert one(tmp_path / "b.epub").document.title == "The pump"


def test_code_is_known_by_its_functions_and_classes(tmp_path: Path) -> None:
    (tmp_path / "pump.py").write_text(CODE)
    parsed = one(tmp_path / "pump.py")
    assert (parsed.document.text, parsed.document.title) == (CODE, "pump.py")
    assert [(heading, text.split("\n")[0]) for heading, _, text in shown(parsed)] == [
        ("", '"""A pump."""'),
        ("Pump", "class Pump:"),
        ("Pump > bleed", "def bleed(self):"),
        ("spare", "@property"),
    ]
    (tmp_path / "a.go").write_text("package a\n\n// Adds.\nfunc Add(a int) int {\n\treturn a\n}\n")
    assert [heading for heading, _, _ in shown(one(tmp_path / "a.go"))] == ["", "Add"]
    (tmp_path / "a.zig").write_text("pub fn main() void {}\n")
    assert shown(one(tmp_path / "a.zig")) == [("", "code", "pub fn main() void {}")]


@pytest.mark.parametrize(
    ("suffix", "source"),
    [
        (".js", "class A {\n  b() {\n    return 1\n  }\n}\n"),
        (".ts", "export class A {\n  b(): number {\n    return 1\n  }\n}\n"),
        (".java", "class A {\n  int b() {\n    return 1;\n  }\n}\n"),
        (".cpp", "namespace n {\nclass A {\n  int b() {\n    return 1;\n  }\n};\n}\n"),
        (".cs", "class A {\n  int b() {\n    return 1;\n  }\n}\n"),
        (".rb", "class A\n  def b\n    1\n  end\nend\n"),
        (".php", "<?php\nclass A {\n  function b() {\n    return 1;\n  }\n}\n"),
        (".rs", "impl A {\n  fn b() {\n    1\n  }\n}\n"),
        (".c", "int b(void)\n{\n  return 1;\n}\n"),
        (".sh", "b() {\n  echo 1\n}\n"),
        (".kt", "object A {\n  fun b(): Int {\n    return 1\n  }\n}\n"),
        (".swift", "extension A {\n  func b() -> Int {\n    return 1\n  }\n}\n"),
        (".scala", "object A {\n  def b(): Int = {\n    1\n  }\n}\n"),
        (".lua", "function A.b()\n  return 1\nend\n"),
        (".jl", "module A\nfunction b(x)\n  1\nend\nend\n"),
    ],
)
def test_every_grammar_finds_the_function(tmp_path: Path, suffix: str, source: str) -> None:
    (tmp_path / f"a{suffix}").write_text(source)
    path = shown(one(tmp_path / f"a{suffix}"))
    headings = [heading for heading, _, text in path if "b" in text]
    outer = "n > A > b" if suffix == ".cpp" else "A.b" if suffix == ".lua" else "A > b"
    assert ("b" if suffix in (".c", ".sh") else outer) in headings, path


def test_tables_and_lines_are_a_document_each_row(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "a.csv").write_text('id;name;price\n1;"a; pump";12\n2;valve;\n\n')
    first, second = (parsed.document for parsed in read(tmp_path / "a.csv"))
    assert (first.id, first.text, dict(first.metadata)) == (
        "1",
        "name: a; pump\nprice: 12",
        {"name": "a; pump", "price": "12"},
    )
    assert second.text == "name: valve"
    (tmp_path / "b.tsv").write_text("title\ttext\tlang\nPump\tIt pumps.\ten\n")
    document = one(tmp_path / "b.tsv").document
    assert (document.title, document.text, dict(document.metadata)) == ("Pump", "It pumps.", {"lang": "en"})
    assert document.id == f"{tmp_path / 'b.tsv'}:2"
    table = pyarrow.table(
        {"_id": ["x"], "text": ["It pumps."], "year": [2020], "tags": [["a", "b"]], "none": [float("nan")]}
    )
    parquet.write_table(table, tmp_path / "c.parquet")
    document = one(tmp_path / "c.parquet").document
    assert (document.id, dict(document.metadata)) == ("x", {"year": 2020, "tags": ["a", "b"]})
    lines = [{"_id": 7, "title": "", "text": "beir", "year": 2020}, {"id": "x", "text": "own", "metadata": {"a": 1}}]
    (tmp_path / "d.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    beir, own = (parsed.document for parsed in read(tmp_path / "d.jsonl"))
    assert (beir.id, beir.title, dict(beir.metadata)) == ("7", None, {"year": 2020})
    assert (own.id, dict(own.metadata), own.source) == ("x", {"a": 1}, str(tmp_path / "d.jsonl"))


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"<a/>" * (80 << 20))
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "ok"}\nnot json\n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b'["text"]\n', r'a\.jsonl:1: expected an object with a "text"'),
        ("a.jsonl", b'{"text": 3}\n', r'a\.jsonl:1: expected an object with a "text"'),
        ("a.jsonl", b'{"text": "x", "metadata": {"n": NaN}}\n', r"a\.jsonl:1: metadata .* is not JSON"),
        ("a.jsonl", b'{"text": "x", "metadata": "lang=en"}\n', r"a\.jsonl:1: metadata is 'lang=en'"),
        ("a.jsonl", b'{"text": "x", "title": 3}\n', r"a\.jsonl:1: title is 3"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl:1: text has a lone surrogate at character 0"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', r"a\.jsonl:1: not UTF-8"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not JSON"),
        ("a.txt", b"text\x00\x01", r"a\.txt: \.txt by its name, but not by its content"),
        ("a.md", b"\x7fELF\x02\x01\x01\x00", r"a\.md: \.md by its name, but"),
        ("a.png", b"\x89PNG\r\n\x1a\n\x00", r"a\.png: unsupported file type; supported suffixes: .*\.pdf"),
        ("a.pdf", b"%PDF-1.7\nbroken", r"a\.pdf: damaged PDF"),
        ("a.pdf", b"no PDF at all", None),
        ("a.docx", b"PK\x03\x04broken", r"a\.docx: damaged Word document: File is not a zip file"),
        ("a.epub", b"PK\x03\x04" + b"\x00" * 26 + b"mimetypeapplication/epub+zip", r"a\.epub: damaged EPUB"),
        ("a.docx", bomb(), r"a\.docx: too large: unpacks to 320 MiB of text; expected at most 256 MiB"),
        ("a.parquet", b"PAR1broken", r"a\.parquet: broken Parquet"),
        ("a.csv", b"a,a\n1,2\n", r"a\.csv: header row is \['a', 'a'\]; expected unique, non-empty column names"),
        ("a.csv", b"a,b\n1,2,3\n", r"a\.csv:2: 3 cells; expected 2"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str | None) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    if message is None:
        assert one(path).document.text == content.decode(), "a text under a wrong name is a text"
        return
    with pytest.raises(IngestError, match=message):
        list(read(path))


def test_pdfs_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    write_pdf(tmp_path / "locked.pdf", ["secret"], password="open sesame")
    with pytest.raises(IngestError, match=r"locked\.pdf: encrypted: it needs a password"):
        list(read(tmp_path / "locked.pdf"))
    write_pdf(tmp_path / "scan.pdf", ["", ""])
    with pytest.raises(IngestError, match=r"scan\.pdf: 2 pages without text"):
        list(read(tmp_path / "scan.pdf"))


def test_a_file_too_large_to_be_read_whole_is_refused_and_one_with_lines_is_streamed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word " * 1000)
    with pytest.raises(IngestError, match=r"a\.txt: more than 0 MiB"):
        list(read(tmp_path / "a.txt", largest=100))
    (tmp_path / "a.jsonl").write_text('{"text": "word"}\n' * 100)
    assert len(list(read(tmp_path / "a.jsonl", largest=100))) == 100
    (tmp_path / "a.csv").write_text("text\n" + "word\n" * 100)
    assert len(list(read(tmp_path / "a.csv", largest=100))) == 100


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.py", "a.jsonl", "a.pdf"])
def test_a_gigabyte_in_one_line_is_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"%PDF-1.7 " if name == "a.pdf" else b"word " * 4096)
    os.truncate(path, 1 << 30)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(IngestError, match=r"a\.\w+(: more than 64 MiB|:1: not JSON)"):
        list(read(path))
    assert time.monotonic() - started < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 << 10, "KiB"


def test_a_reader_of_ones_own_takes_five_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_registered", {})

    @reader(".srt")
    def subtitles(file: File) -> Iterator[Document]:
        yield Document(file.text.partition("\n\n")[2], title=file.stem)

    (tmp_path / "film.srt").write_text("1\n00:01\n\nHello.")
    document = one(tmp_path / "film.srt").document
    assert (document.text, document.title, document.source) == ("Hello.", "film", str(tmp_path / "film.srt"))

    @reader(".srt")
    def broken(file: File) -> Iterator[Document]:
        raise RuntimeError("no such luck")

    with pytest.raises(IngestError, match=r"film\.srt: cannot be read: RuntimeError: no such luck"):
        list(read(tmp_path / "film.srt"))
    for bad in ("srt", ".SRT", 3):
        with pytest.raises(InvalidArgumentError, match="expected lower case with a leading dot"):
            reader(bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="no suffixes"):
        reader()


def test_json_lines_take_id_where_underscore_id_is_null(tmp_path: Path) -> None:
    lines = (
        '{"_id": null, "id": "x", "text": "a"}',
        '{"_id": 0, "id": "y", "text": "b"}',
        '{"_id": null, "text": "c"}',
    )
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    names = [parsed.document.id for parsed in read(tmp_path / "a.jsonl")]
    assert names == ["x", "0", f"{tmp_path / 'a.jsonl'}#2"]


@pytest.mark.parametrize("text", ["[a]: https://example.org\n", "---\ntitle: t\n---\n", "<!-- -->"])
def test_markdown_without_a_single_block_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.md").write_text(text)
    assert one(tmp_path / "a.md").document.text == text


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("'Guide'", "Guide"),
        ('"A" and "B"  ', 'A" and "B'),
        ("it's", "it's"),
        ("'half", "'half"),
        ("''", "''"),
        ("", "a"),
    ],
)
def test_markdown_titles_in_front_matter_lose_their_quotes(tmp_path: Path, said: str, title: str) -> None:
    (tmp_path / "a.md").write_text(f"---\ntitle: {said}\n---\ntext")
    assert one(tmp_path / "a.md").document.title == title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("\n\n  Title of it \n=====\n\ntext", "Title of it"),
        ("=====\r\nTitle\r\n=====\r\ntext", "Title"),
        ("Title\n---", "Title"),
        ("Title\n--\ntext", "a"),
        ("Title\n\n====\n", "a"),
        ("=====\nTitle\ntext", "a"),
    ],
)
def test_plain_text_titles_are_underlined_first_lines(tmp_path: Path, text: str, title: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert one(tmp_path / "a.txt").document.title == title


LISTS = """# Tools

To have:

- a spanner

  of 12 mm
- a bucket
  * with a lid

1. Bleed.
2) Wait.

After it.
"""


def test_markdown_lists_are_sections(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(LISTS)
    assert [(kind, text) for _, kind, text in shown(one(tmp_path / "a.md"))] == [
        ("prose", "# Tools\n\nTo have:"),
        ("list", "- a spanner\n\n  of 12 mm\n- a bucket\n  * with a lid"),
        ("list", "1. Bleed."),
        ("list", "2) Wait."),
        ("prose", "After it."),
    ]


@pytest.mark.parametrize(
    ("body", "sections"),
    [
        ("<ol><li>a<ul><li>b<li>c</ul><li><p>d<p>e</ol>", [("list", "1. a\n  - b\n  - c\n2. d\n  e")]),
        ("<ol start=9><li>a<li>b</ol>", [("list", "9. a\n10. b")]),
        ("x<ul><li>a<pre>b</pre>c<li></ul>y", [
            ("prose", "x"), ("list", "- a"), ("code", "b"), ("list", "c"), ("prose", "y"),
        ]),
        ("<ul><li><h2>a</h2>b</ul>", [("prose", "a"), ("list", "- b")]),
        ("<li>a", [("prose", "a")]),
    ],
)  # fmt: skip
def test_html_lists_are_sections(tmp_path: Path, body: str, sections: list[tuple[str, str]]) -> None:
    (tmp_path / "a.html").write_text(f"<html><body>{body}</body></html>")
    assert [(kind, text) for _, kind, text in shown(one(tmp_path / "a.html"))] == sections


def test_hostile_code_is_split_at_lines_when_parsing_takes_too_long(tmp_path: Path) -> None:
    pytest.importorskip("tree_sitter_python")
    # The time that tree-sitter's own parser takes grows with the square of comments after a statement.
    text = "x = 1\n" + "# c\n" * 200_000 + "def f():\n    pass\n"
    (tmp_path / "a.py").write_text(text)
    started = time.monotonic()
    (parsed,) = read(tmp_path / "a.py", seconds=2)
    assert time.monotonic() - started < 10
    assert (parsed.partial, parsed.sections) == (None, (Section(0, len(text), (), "code"),))
    (tmp_path / "b.py").write_text(CODE)
    assert len(one(tmp_path / "b.py").sections) == 4, "the next file is parsed"


def test_code_of_more_than_a_mebibyte_is_split_at_lines(tmp_path: Path) -> None:
    text = "def f():\n    pass\n" * (1 << 16)
    (tmp_path / "a.py").write_text(text)
    assert one(tmp_path / "a.py").sections == (Section(0, len(text), (), "code"),)


def test_broken_gzip_is_an_error_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(os.urandom(100_000).hex().encode())[:50_000])
    with pytest.raises(ContentError, match=r"a\.csv\.gz: broken gzip"):
        list(read(tmp_path / "a.csv.gz"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1broken")
    with pytest.raises(ContentError, match=r"a\.parquet: broken Parquet"):
        list(read(tmp_path / "a.parquet"))
