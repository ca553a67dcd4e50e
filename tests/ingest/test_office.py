"""Word, PowerPoint and Excel files as they are read: text, headings, tables and pages."""

from pathlib import Path

import pytest

from ingest import office_samples as office
from ingest.office_samples import drawing_table, excel, paragraph, powerpoint, shape, sheet, slide, word
from ingest.test_readers import one, shown
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.ingest.parsers import number_formats


def pages(parsed: Parsed) -> list[str]:
    """The text of each page."""
    text = parsed.document.text
    stops = [*parsed.pages[1:], len(text)]
    return [text[start:stop].strip() for start, stop in zip(parsed.pages, stops, strict=True)]


def read_bytes(tmp_path: Path, name: str, content: bytes) -> Parsed:
    (tmp_path / name).write_bytes(content)
    return one(tmp_path / name)


def test_powerpoint_slides_are_pages_under_their_titles(tmp_path: Path) -> None:
    slides = [
        slide(shape("Maintenance\nof pumps", "ctrTitle"), shape("1 May", "dt"), shape("7", "sldNum")),
        slide(shape("The valve is &lt;open&gt;."), shape("Bleeding", "title"), shape("Turn it.\nWait.")),
        slide(drawing_table([["tool", "size"], ["spanner", "12 mm"]])),
    ]
    parsed = read_bytes(tmp_path, "a.pptx", powerpoint(slides, notes="Say why."))
    assert parsed.document.title == "Maintenance of pumps"
    assert shown(parsed) == [
        ("", "prose", "Maintenance of pumps\n\nSay why."),
        ("Bleeding", "prose", "Bleeding\n\nThe valve is <open>.\n\nTurn it.\n\nWait."),
        ("", "table", "tool | size\nspanner | 12 mm"),
    ]
    assert [page[:7] for page in pages(parsed)] == ["Mainten", "Bleedin", "tool | "]


def test_powerpoint_title_comes_from_the_properties_if_it_is_not_powerpoints_own(tmp_path: Path) -> None:
    slides = [slide(shape("First", "title"))]
    assert read_bytes(tmp_path, "a.pptx", powerpoint(slides, title="Pumps")).document.title == "Pumps"
    assert read_bytes(tmp_path, "b.pptx", powerpoint(slides, title="PowerPoint-Präsentation")).document.title == "First"


def test_excel_sheets_are_pages_and_tables_with_values_as_they_are_shown(tmp_path: Path) -> None:
    first = sheet(
        '<row r="1"><c r="A1" t="s"><v>3</v></c></row>'
        '<row r="3"><c r="A3" t="s"><v>0</v></c><c r="B3" t="s"><v>1</v></c><c r="C3" t="inlineStr"><is>'
        '<t>share</t></is></c><c r="D3" t="str"><f>A1&amp;"x"</f><v>price</v></c><c r="E3"/></row>'
        '<row r="4"><c r="A4" t="s"><v>2</v></c><c r="B4" s="1"><v>45413</v></c><c r="C4" s="2"><v>0.255</v></c>'
        '<c r="D4" s="3"><v>1234.5</v></c></row>'
        '<row r="5"><c r="A5"><v>0.30000000000000004</v></c><c r="B5" s="4"><v>45413.520833333336</v></c>'
        '<c r="D5" t="b"><v>1</v></c></row>'
    )
    parsed = read_bytes(tmp_path, "Prices.xlsx", excel({"Parts": first, "Empty": sheet(""), "End": sheet("")}))
    assert parsed.document.title == "Prices"
    assert shown(parsed) == [
        ("Parts", "prose", "Parts\n\nParts of the pump"),
        (
            "Parts",
            "table",
            "part | bought | share | price\nspanner | 2024-05-01 | 25.50% | 1,234.50\n"
            "0.3 | 2024-05-01T12:30:00 |  | TRUE",
        ),
        ("Empty", "prose", "Empty"),
        ("End", "prose", "End"),
    ]
    assert [page.split("\n")[0] for page in pages(parsed)] == ["Parts", "Empty", "End"]


def test_excel_rows_without_references_and_far_columns_are_read(tmp_path: Path) -> None:
    rows = '<row><c><v>1</v></c><c><v>2</v></c></row><row><c r="A2"><v>3</v></c><c r="XFD2"><v>4</v></c></row>'
    parsed = read_bytes(tmp_path, "a.xlsx", excel({"S": sheet(rows)}))
    first, second = parsed.document.text.split("\n")[2:]
    assert (first, second.replace(" | ", "")) == ("1 | 2", "34")
    assert len(second) < 200


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (1, "", "1"),
        (1e21, "0.00", "1e+21"),
        (0.1 + 0.2, "General", "0.3"),
        (1234567.891, "#,##0.00", "1,234,567.89"),
        (-5, "0.0;[Red]-0.0", "-5.0"),
        (0.5, "0%", "50%"),
        (60, "m/d/yyyy", "1900-02-28"),
        (61, "m/d/yyyy", "1900-03-01"),
        (1, "d", "1900-01-01"),
        (45413.75, 'dd" of "mmmm\\ yyyy h:mm', "2024-05-01T18:00:00"),
        (0.75, "h:mm AM/PM", "18:00:00"),
        (1.5, "[h]:mm:ss", "36:00:00"),
        (12, '"days "0', "12"),
        (12, "[$-409]0", "12"),
        (1e300, "yyyy", "1e+300"),
        (-1, "yyyy", "-1"),
    ],
)
def test_number_formats_show_a_number_as_its_cell_does(number: float, code: str, text: str) -> None:
    assert number_formats.shown(number, code) == text


def test_number_formats_know_workbooks_that_count_from_1904() -> None:
    assert number_formats.shown(43951, "yyyy", since_1904=True) == "2024-05-01"


def test_word_headings_come_from_outline_levels_and_inherited_styles(tmp_path: Path) -> None:
    styles = (
        '<w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>'
        '<w:style w:styleId="Mine"><w:name w:val="Kapitel"/><w:basedOn w:val="berschrift1"/></w:style>'
        '<w:style w:styleId="Sub"><w:name w:val="x"/><w:pPr><w:outlineLvl w:val="1"/></w:pPr></w:style>'
        '<w:style w:styleId="Titel"><w:name w:val="Title"/></w:style>'
        '<w:style w:styleId="A"><w:basedOn w:val="B"/></w:style><w:style w:styleId="B"><w:basedOn w:val="A"/></w:style>'
    )
    body = (
        paragraph("Pump manual", "Titel")
        + paragraph("Bleeding", "Mine")
        + paragraph("Why", "Sub")
        + paragraph("x", "A")
    )
    parsed = read_bytes(tmp_path, "a.docx", word(body, styles, main="document2"))
    assert parsed.document.title == "Pump manual"
    assert [(headings, text) for headings, _, text in shown(parsed)] == [
        ("", "Pump manual"),
        ("Bleeding", "Bleeding"),
        ("Bleeding > Why", "Why\n\nx"),
    ]


def test_word_text_is_what_a_reader_sees(tmp_path: Path) -> None:
    body = (
        '<w:p><w:pPr><w:tabs><w:tab w:val="left" w:pos="1"/></w:tabs></w:pPr><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t>'
        "<w:br/><w:t>c</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
        "<w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom><w:r><w:instrText>PAGE</w:instrText></w:r></w:p>"
        "<w:p><w:r><mc:AlternateContent><mc:Choice><w:txbxContent>"
        + paragraph("in a box")
        + "</w:txbxContent></mc:Choice>"
        "<mc:Fallback><w:txbxContent>" + paragraph("in a box") + "</w:txbxContent></mc:Fallback></mc:AlternateContent>"
        "<w:t>around it</w:t></w:r></w:p>"
        "<w:tbl><w:tr><w:tc><w:p/><w:tbl><w:tr><w:tc>" + paragraph("inner") + "</w:tc></w:tr></w:tbl></w:tc>"
        "<w:tc>" + paragraph("one") + paragraph("two") + "</w:tc></w:tr></w:tbl>"
        "<w:tbl><w:tr><w:tc>" + paragraph("framed") + "</w:tc></w:tr></w:tbl>"
    )
    footnotes = f'<w:footnote w:id="1">{paragraph("See below.")}</w:footnote>'
    parsed = read_bytes(tmp_path, "a.docx", word(body, footnotes=footnotes))
    assert [(kind, text) for _, kind, text in shown(parsed)] == [
        ("prose", "a\tb\nc\n\nin a box\n\naround it"),
        ("table", "inner | one two"),
        ("prose", "framed\n\nSee below."),
    ]


def test_word_lists_are_numbered_or_marked(tmp_path: Path) -> None:
    def item(text: str, number: int, level: int = 0) -> str:
        place = f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>'
        return f"<w:p><w:pPr>{place}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"

    styles = '<w:style w:styleId="Bullets"><w:pPr><w:numPr><w:numId w:val="2"/></w:numPr></w:pPr></w:style>'
    numbering = (
        '<w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0"><w:numFmt w:val="decimal"/></w:lvl>'
        '<w:lvl w:ilvl="1"><w:numFmt w:val="bullet"/></w:lvl></w:abstractNum><w:abstractNum w:abstractNumId="1">'
        '<w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/></w:lvl></w:abstractNum>'
        '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num>'
    )
    body = (
        item("open", 1) + item("slowly", 1, 1) + item("wait", 1) + paragraph("Then") + item("close", 1)
        + paragraph("a", "Bullets") + item("not one", 0)
    )  # fmt: skip
    parsed = read_bytes(tmp_path, "a.docx", word(body, styles, numbering=numbering))
    assert [(kind, text) for _, kind, text in shown(parsed)] == [
        ("list", "1. open\n  - slowly\n2. wait"),
        ("prose", "Then"),
        ("list", "3. close\n- a"),
        ("prose", "not one"),
    ]


@pytest.mark.parametrize("kind", ["pptx", "xlsx", "docx"])
def test_office_files_are_told_by_their_content_also_inside_gzip(tmp_path: Path, kind: str) -> None:
    import gzip

    content = {
        "pptx": powerpoint([slide(shape("text"))]),
        "xlsx": excel({"S": sheet('<row><c t="inlineStr"><is><t>text</t></is></c></row>')}),
        "docx": word(paragraph("text")),
    }[kind]
    (tmp_path / "a.bin").write_bytes(content)
    (tmp_path / "b.gz").write_bytes(gzip.compress(content))
    for name in ("a.bin", "b.gz"):
        assert one(tmp_path / name).document.text.endswith("text")


def test_passages_of_office_files_have_the_page_of_their_slide(tmp_path: Path) -> None:
    from ingest.test_sync import Words
    from qwen3_rag.ingest.indexer import prepare
    from qwen3_rag.settings import Settings

    slides = [slide(shape(f"Part {n}", "title"), shape(f"text number {n} " * 20)) for n in range(5)]
    parsed = read_bytes(tmp_path, "a.pptx", office.powerpoint(slides))
    prepared = prepare(parsed, Words(), Settings(chunk_tokens=64, chunk_overlap=0))
    for cut in prepared.cuts:
        passage = parsed.document.text[cut.start : cut.stop]
        assert passage == passage.strip()
        assert f"number {cut.page - 1}" in passage
    assert {cut.page for cut in prepared.cuts} == {1, 2, 3, 4, 5}
