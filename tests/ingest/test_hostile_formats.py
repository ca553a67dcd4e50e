"""Office files, books, tables and mail made to fill memory or to take for ever: each is named with a reason."""

import gc
import io
import json
import resource
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingest import office_samples as office
from ingest.office_samples import HEAD, excel, powerpoint, sheet, slide, word, zipped
from qwen3_rag.errors import IngestError
from qwen3_rag.ingest import child as child_module
from qwen3_rag.ingest.readers import read

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")
SECONDS = 5  # that a parser may take here
DTD = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
NESTED = 30_000
CELL = '<row><c t="s"><v>0</v></c></row>'


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test takes little time and little of this process's memory; it has a parser process of its own."""
    monkeypatch.setattr(child_module, "_idle", child_module._Idle())
    gc.collect()
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    if (child := child_module._idle.child) is not None:
        child.close()
    assert time.monotonic() - started < 4 * SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10, "KiB"


def reason(path: Path, content: bytes) -> str:
    """Why a file cannot be read."""
    path.write_bytes(content)
    with pytest.raises(IngestError) as caught:
        for _ in read(path, seconds=SECONDS):
            pass
    return str(caught.value).removeprefix(f"{path}: ")


def with_doctype(part: str) -> str:
    return part.replace(HEAD, HEAD + DTD)


def replaced(content: bytes, **parts: str) -> bytes:
    """An archive with some members replaced, by the ends of their names without suffix."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name).decode() for name in archive.namelist()}
    for base, part in parts.items():
        (name,) = (name for name in members if name.endswith(f"/{base}.xml"))
        members[name] = part
    return zipped(members)


BLANKS = " " * (65 << 20)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.docx", lambda: word(BLANKS)),
        ("a.docx", lambda: word("", styles=BLANKS)),
        ("a.pptx", lambda: powerpoint([slide(BLANKS)])),
        ("a.xlsx", lambda: excel({"S": sheet(CELL)}, shared=BLANKS)),
        ("a.xlsx", lambda: excel({"S": sheet(BLANKS)})),
    ],
    ids=["body", "styles", "slide", "shared", "sheet"],
)
def test_office_member_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, name: str, make: Callable[[], bytes]
) -> None:
    content = make()
    assert len(content) < 100_000
    assert reason(tmp_path / name, content).startswith("too large: ")


def test_office_members_that_unpack_to_too_much_together_are_refused(tmp_path: Path) -> None:
    slides = [slide(" " * (50 << 20))] * 6
    assert reason(tmp_path / "a.pptx", powerpoint(slides)).startswith("too large: unpacks to 300 MiB of text; expected")


def test_office_member_with_a_wrong_size_is_damaged(tmp_path: Path) -> None:
    content = bytearray(word(office.paragraph("text " * 10_000)))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = archive.getinfo("word/document.xml").file_size.to_bytes(4, "little")
    why = reason(tmp_path / "a.docx", bytes(content.replace(size, (99).to_bytes(4, "little"))))
    assert why.startswith("damaged Word document: ")


def test_excel_text_that_a_million_cells_share_is_refused(tmp_path: Path) -> None:
    shared = f'{HEAD}<sst xmlns="{office.SHEETS}"><si><t>{"word " * 6000}</t></si></sst>'
    content = excel({"S": sheet(CELL * 300_000)}, shared=shared)
    assert reason(tmp_path / "a.xlsx", content) == "too large: a sheet with more than 64 MiB of text"


TABLE = "<w:tbl><w:tr><w:tc>"
DRAWN = "<a:tbl><a:tr><a:tc>"


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.docx", lambda: word(TABLE * NESTED + "</w:tc></w:tr></w:tbl>" * NESTED)),
        ("a.docx", lambda: word("", styles="<w:a>" * NESTED + "</w:a>" * NESTED)),
        ("a.pptx", lambda: powerpoint([slide(DRAWN * NESTED + "</a:tc></a:tr></a:tbl>" * NESTED)])),
        ("a.xlsx", lambda: excel({"S": sheet("<row>" * NESTED + "</row>" * NESTED)})),
    ],
    ids=["word", "styles", "slides", "sheets"],
)
def test_office_elements_nested_deeply_are_refused(tmp_path: Path, name: str, make: Callable[[], bytes]) -> None:
    assert reason(tmp_path / name, make()) == "too large: elements nested more than 2000 deep"


def test_html_tables_nested_deeply_are_read_or_named(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<html><body>" + "<table><tr><td>" * NESTED + "text")
    try:
        texts = [parsed.document.text for parsed in read(tmp_path / "a.html", seconds=SECONDS)]
    except IngestError as error:
        texts = [str(error)]
    assert texts[0].endswith(("text", "GB of memory", "longer than 5 s"))


def test_word_tables_within_the_limit_take_linear_time(tmp_path: Path) -> None:
    inside = office.paragraph("word " * 400_000)
    (tmp_path / "a.docx").write_bytes(word(TABLE * 600 + inside + "</w:tc></w:tr></w:tbl>" * 600))
    (parsed,) = read(tmp_path / "a.docx", seconds=SECONDS)
    assert len(parsed.document.text) == 5 * 400_000 - 1


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.docx", lambda: replaced(word("", styles=""), document=DTD + "<document>&b;</document>")),
        ("a.docx", lambda: replaced(word("", styles=""), styles=DTD + "<styles>&b;</styles>")),
        ("a.pptx", lambda: powerpoint([with_doctype(slide(office.shape("&b;")))])),
        ("a.xlsx", lambda: excel({"S": sheet(CELL)}, shared=with_doctype(office.SHARED))),
        ("a.xlsx", lambda: excel({"S": with_doctype(sheet(CELL))})),
        (
            "a.epub",
            lambda: zipped(
                {"mimetype": "application/epub+zip", "META-INF/container.xml": DTD + "<container>&b;</container>"}
            ),
        ),
    ],
    ids=["body", "styles", "slide", "shared", "sheet", "container"],
)
def test_xml_with_a_document_type_definition_is_refused(tmp_path: Path, name: str, make: Callable[[], bytes]) -> None:
    assert (
        reason(tmp_path / name, make()) == "damaged: XML with a document type definition, which such a file never has"
    )


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.xlsx", "a.pptx", "a.docx"])
def test_truncated_office_files_are_named_with_a_reason(tmp_path: Path, name: str, share: float) -> None:
    content = {
        "a.xlsx": excel({"S": sheet(CELL)}),
        "a.pptx": powerpoint([slide(office.shape("text"))]),
        "a.docx": word(office.paragraph("text")),
    }[name]
    why = reason(tmp_path / name, content[: int(len(content) * share)])
    assert why.startswith((f"{name[1:]} by its name, but not by its content", "damaged "))


@pytest.mark.parametrize(
    "content",
    [
        excel({"S": sheet('<row><c t="s"><v>9</v></c></row>')}),
        excel({"S": sheet('<row><c t="s"><v>x</v></c></row>')}),
        excel({"S": sheet('<row><c s="99"><v>1</v></c></row>')}),
        excel({"S": sheet("<row><c><v>one</v></c></row>")}),
        excel({"S": sheet("<row><c></row>")}),
        excel({"S": "no XML"}),
        replaced(
            excel({"S": sheet(CELL)}),
            workbook=f'<workbook xmlns:r="{office.OFFICE}"><sheets><sheet/></sheets></workbook>',
        ),
    ],
    ids=["index", "no-index", "style", "number", "tags", "text", "relationship"],
)
def test_excel_with_wrong_values_is_damaged(tmp_path: Path, content: bytes) -> None:
    assert reason(tmp_path / "a.xlsx", content).startswith("damaged Excel workbook: ")


def test_archive_with_a_long_list_of_names_is_not_taken_for_an_office_file(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(50_000):
            archive.writestr(f"word/document{number:060}", b"")
    assert reason(tmp_path / "a.docx", out.getvalue()).startswith(".docx by its name, but not by its content")


def varint(number: int) -> bytes:
    out = bytearray()
    number <<= 1
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def write_parquet(path: Path, texts: list[str], times: int = 1) -> None:
    """A Parquet file; with `times`, each text is stored once and read so many times."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    indices = pyarrow.array([number for number in range(len(texts)) for _ in range(times)], pyarrow.int32())
    column = pyarrow.DictionaryArray.from_arrays(indices, texts)
    parquet.write_table(pyarrow.table({"text": column}), path, compression="zstd", store_schema=False)


def test_parquet_whose_footer_lies_about_its_rows_allocates_little(tmp_path: Path) -> None:
    rows = 54_321
    write_parquet(tmp_path / "true.parquet", [f"text {number}" for number in range(rows)])
    content = (tmp_path / "true.parquet").read_bytes()
    size = int.from_bytes(content[-8:-4], "little")
    body, footer = content[: -8 - size], content[-8 - size : -8]
    assert varint(rows) in footer
    footer = footer.replace(varint(rows), varint(1 << 40))
    lying = body + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    (tmp_path / "a.parquet").write_bytes(lying)
    try:
        texts = [parsed.document.text for parsed in read(tmp_path / "a.parquet", seconds=SECONDS)]
        assert texts == [f"text {number}" for number in range(rows)]
    except IngestError as error:
        assert "broken Parquet" in str(error) or "memory" in str(error)


def test_parquet_text_that_rows_share_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["word " * 5_000_000], times=64)
    content = (tmp_path / "a.parquet").read_bytes()
    assert len(content) < 1 << 20
    assert reason(tmp_path / "a.parquet", content).startswith(
        ("needed more than 1 GB", "too large: row 1 has more than 16")
    )


@pytest.mark.parametrize("place", [4, 40, -12])
def test_parquet_with_flipped_bytes_is_named_with_a_reason(tmp_path: Path, place: int) -> None:
    write_parquet(tmp_path / "a.parquet", [f"text {number}" for number in range(1000)])
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    for offset in range(8 if place > 0 else 4):
        content[place + offset] ^= 0xFF
    assert reason(tmp_path / "a.parquet", bytes(content)).startswith("broken Parquet: ")


def test_parquet_is_read_from_where_the_last_answer_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(child_module, "RECYCLED", 2)
    table = pyarrow.table({"_id": [str(n) for n in range(5000)], "text": ["x"] * 5000, "picture": [b"\x00"] * 5000})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1500)
    rows = [parsed.document for parsed in read(tmp_path / "a.parquet")]
    assert [row.id for row in rows] == [str(n) for n in range(5000)]
    assert dict(rows[0].metadata) == {}


@pytest.mark.parametrize(
    "content",
    [b"a,b\n" + b"," * (17 << 20), b"a,b\n" + b'"\n",' * (5 << 20), b"a,b\n" + b'"' + b"x\n" * (9 << 20)],
    ids=["cells", "lines", "cell"],
)
def test_csv_row_that_is_too_long_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "too large: more than 16 MiB in one row" in reason(tmp_path / "a.csv", content)


def test_json_made_to_fill_memory_is_refused(tmp_path: Path) -> None:
    why = reason(tmp_path / "a.json", b"[" + b"[]," * (20 << 20) + b"[]]")
    assert why in ("needed more than 1 GB of memory", "took longer than 5 s")
    line = json.dumps({"text": "x", "list": "@"}).replace('"@"', "[" + "[]," * (6 << 20) + "[]]")
    assert reason(tmp_path / "a.jsonl", line.encode()).endswith("not JSON Lines: more than 16 MiB in one line")
