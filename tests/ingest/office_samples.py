"""Office files with the parts, namespaces and relationships that Word, PowerPoint and Excel write."""

import io
import zipfile
from collections.abc import Mapping

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
SLIDES = "http://schemas.openxmlformats.org/presentationml/2006/main"
SHEETS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\r\n'


def zipped(members: Mapping[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content, zipfile.ZIP_STORED if name == "mimetype" else None)
    return out.getvalue()


def relationships(**targets: str) -> str:
    """A part's relationships: rId1="slide slides/slide1.xml"."""
    entries = [(name, *target.split(" ")) for name, target in targets.items()]
    body = "".join(f'<Relationship Id="{i}" Type="{OFFICE}/{kind}" Target="{to}"/>' for i, kind, to in entries)
    return f'{HEAD}<Relationships xmlns="{PACKAGE}/relationships">{body}</Relationships>'


def core(title: str) -> str:
    return (
        f'{HEAD}<cp:coreProperties xmlns:cp="{PACKAGE}/metadata/core-properties" '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></cp:coreProperties>'
    )


def shape(text: str, placeholder: str = "") -> str:
    ph = f'<p:ph type="{placeholder}"/>' if placeholder else ""
    paragraphs = "".join(
        f'<a:p><a:r><a:rPr lang="en-US" dirty="0"/><a:t>{line}</a:t></a:r></a:p>' for line in text.split("\n")
    )
    return (
        f'<p:sp><p:nvSpPr><p:cNvPr id="2" name="Shape 1"/><p:cNvSpPr/><p:nvPr>{ph}</p:nvPr></p:nvSpPr><p:spPr/>'
        f"<p:txBody><a:bodyPr/><a:lstStyle/>{paragraphs}</p:txBody></p:sp>"
    )


def drawing_table(rows: list[list[str]]) -> str:
    def cell(text: str) -> str:
        return f"<a:tc><a:txBody><a:bodyPr/><a:p><a:r><a:t>{text}</a:t></a:r></a:p></a:txBody><a:tcPr/></a:tc>"

    body = "".join(f'<a:tr h="1">{"".join(map(cell, row))}</a:tr>' for row in rows)
    return (
        '<p:graphicFrame><p:nvGraphicFramePr><p:cNvPr id="4" name="Table 3"/><p:nvPr/></p:nvGraphicFramePr><a:graphic>'
        f'<a:graphicData uri="x"><a:tbl><a:tblPr/>{body}</a:tbl></a:graphicData></a:graphic></p:graphicFrame>'
    )


def slide(*shapes: str, root: str = "sld") -> str:
    return (
        f'{HEAD}<p:{root} xmlns:a="{DRAWING}" xmlns:r="{OFFICE}" xmlns:p="{SLIDES}"><p:cSld><p:spTree>'
        f"<p:nvGrpSpPr/><p:grpSpPr/>{''.join(shapes)}</p:spTree></p:cSld></p:{root}>"
    )


def powerpoint(slides: list[str], notes: str = "", title: str = "PowerPoint Presentation") -> bytes:
    """A presentation; the notes belong to its first slide. The files are not named in the order of the slides."""
    count = len(slides)
    files = {number: f"slides/slide{count - number}.xml" for number in range(count)}
    ids = "".join(f'<p:sldId id="{256 + number}" r:id="rId{number + 2}"/>' for number in range(count))
    members: dict[str, str] = {
        "[Content_Types].xml": f'{HEAD}<Types xmlns="{PACKAGE}/content-types"/>',
        "_rels/.rels": relationships(rId1="officeDocument ppt/presentation.xml"),
        "docProps/core.xml": core(title),
        "ppt/presentation.xml": (
            f'{HEAD}<p:presentation xmlns:a="{DRAWING}" xmlns:r="{OFFICE}" xmlns:p="{SLIDES}">'
            f'<p:sldMasterIdLst><p:sldMasterId id="2147483648" r:id="rId1"/></p:sldMasterIdLst>'
            f"<p:sldIdLst>{ids}</p:sldIdLst></p:presentation>"
        ),
        "ppt/_rels/presentation.xml.rels": relationships(
            rId1="slideMaster slideMasters/slideMaster1.xml",
            **{f"rId{number + 2}": f"slide {name}" for number, name in files.items()},
        ),
        **{f"ppt/{files[number]}": content for number, content in enumerate(slides)},
    }
    if notes:
        first = files[0].rpartition("/")[2]
        members[f"ppt/slides/_rels/{first}.rels"] = relationships(rId1="notesSlide ../notesSlides/notesSlide1.xml")
        members["ppt/notesSlides/notesSlide1.xml"] = slide(
            shape("", "sldImg"), shape(notes, "body"), shape("1", "sldNum"), root="notes"
        )
    return zipped(members)


STYLES = (
    f'{HEAD}<styleSheet xmlns="{SHEETS}"><numFmts count="2"><numFmt numFmtId="164" formatCode="yyyy\\-mm\\-dd"/>'
    '<numFmt numFmtId="165" formatCode="&quot;€&quot;#,##0.00_);[Red]\\(#,##0.00\\)"/></numFmts>'
    '<cellStyleXfs count="1"><xf numFmtId="14"/></cellStyleXfs><cellXfs count="5"><xf numFmtId="0"/>'
    '<xf numFmtId="164"/><xf numFmtId="10"/><xf numFmtId="165"/><xf numFmtId="22"/></cellXfs></styleSheet>'
)
SHARED = (
    f'{HEAD}<sst xmlns="{SHEETS}" count="4" uniqueCount="4"><si><t>part</t></si><si><t>bought</t></si>'
    '<si><r><t>sp</t></r><r><rPr><b/></rPr><t xml:space="preserve">anner </t></r><rPh sb="0" eb="1"><t>kana</t></rPh>'
    "</si><si><t>Parts of the pump</t></si></sst>"
)


def sheet(rows: str) -> str:
    return f'{HEAD}<worksheet xmlns="{SHEETS}" xmlns:r="{OFFICE}"><sheetData>{rows}</sheetData></worksheet>'


def excel(sheets: Mapping[str, str], shared: str = SHARED, properties: str = "") -> bytes:
    """A workbook of these sheets by name."""
    names = list(sheets)
    entries = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="rId{n}"/>' for n, name in enumerate(names, 1))
    return zipped(
        {
            "[Content_Types].xml": f'{HEAD}<Types xmlns="{PACKAGE}/content-types"/>',
            "_rels/.rels": relationships(rId1="officeDocument xl/workbook.xml"),
            "xl/workbook.xml": (
                f'{HEAD}<workbook xmlns="{SHEETS}" xmlns:r="{OFFICE}"><workbookPr {properties}/>'
                f"<sheets>{entries}</sheets></workbook>"
            ),
            "xl/_rels/workbook.xml.rels": relationships(
                **{f"rId{n}": f"worksheet worksheets/sheet{n}.xml" for n in range(1, len(names) + 1)},
                rId98="styles styles.xml",
                rId99="sharedStrings /xl/sharedStrings.xml",
            ),
            "xl/styles.xml": STYLES,
            "xl/sharedStrings.xml": shared,
            **{f"xl/worksheets/sheet{n}.xml": sheets[name] for n, name in enumerate(names, 1)},
        }
    )


def word(body: str, styles: str = "", main: str = "document", **parts: str) -> bytes:
    """A document of this body; other parts are given by the kind of their relationship."""
    others = {"styles": styles, **parts}
    return zipped(
        {
            "[Content_Types].xml": f'{HEAD}<Types xmlns="{PACKAGE}/content-types"/>',
            "_rels/.rels": relationships(rId1=f"officeDocument word/{main}.xml"),
            f"word/{main}.xml": (
                f'{HEAD}<w:document xmlns:w="{WORD}" '
                'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
                f"<w:body>{body}</w:body></w:document>"
            ),
            f"word/_rels/{main}.xml.rels": relationships(
                **{f"rId{n}": f"{kind} {kind}.xml" for n, kind in enumerate(others, 1)}
            ),
            **{
                f"word/{kind}.xml": f'{HEAD}<w:{kind} xmlns:w="{WORD}">{xml}</w:{kind}>' for kind, xml in others.items()
            },
        }
    )


def paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"
