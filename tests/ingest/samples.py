"""Sample files of every kind."""

import io
import zipfile
from pathlib import Path

GUIDE = "The pump is bled at the upper valve.\n\nTurn it slowly, until no air comes."


def write_pdf(path: Path, pages: list[str], outline: list[tuple[str, int]] = (), password: str = "") -> None:
    """A PDF of plain lines; written by hand, because no dependency writes PDFs."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for page in pages:
        lines = b"".join(b"(%s) Tj T*\n" % line.encode("latin-1") for line in page.split("\n"))
        stream = b"BT /F1 12 Tf 14 TL 50 700 Td\n" + lines + b"ET"
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(kids))
    out, places = io.BytesIO(b"%PDF-1.4\n"), []
    out.seek(0, 2)
    for number, body in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, start))
    if outline or password:
        from pypdf import PdfReader, PdfWriter

        writer = PdfWriter(clone_from=PdfReader(io.BytesIO(out.getvalue())))
        for title, page in outline:
            writer.add_outline_item(title=title, page_number=page)
        if password:
            writer.encrypt(password)
        writer.write(path)
    else:
        path.write_bytes(out.getvalue())


def write_word(path: Path) -> None:
    from docx import Document

    document = Document()
    document.core_properties.title = "Pump manual"
    document.add_heading("Bleeding", 1)
    document.add_paragraph("The pump is bled at the upper valve.")
    document.add_paragraph("Close the valve.", "List Number")
    document.add_paragraph("Open the pump.", "List Number")
    document.add_heading("Tools", 2)
    table = document.add_table(rows=2, cols=2)
    for row, cells in zip(table.rows, (("tool", "size"), ("spanner", "12 mm")), strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    document.save(str(path))


def write_epub(path: Path) -> None:
    page = "<html><head><title>x</title></head><body><h1>{0}</h1><p>{1}</p></body></html>"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OPS/book.opf"/></rootfiles></container>',
        )
        archive.writestr(
            "OPS/book.opf",
            '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
            "<dc:title>The pump</dc:title></metadata><manifest>"
            '<item id="b" href="two%20.xhtml"/><item id="a" href="one.xhtml"/><item id="n" href="n" properties="nav"/>'
            '</manifest><spine><itemref idref="n"/><itemref idref="a"/><itemref idref="b"/></spine></package>',
        )
        archive.writestr("OPS/two .xhtml", page.format("Second", "How it ends."))
        archive.writestr("OPS/one.xhtml", page.format("First", "How it begins."))


PAGE = """<!DOCTYPE html><html><head><title>Pump — manual</title><style>p {color: red}</style></head><body>
<nav><a href="/">Home</a></nav><div class="sphinxsidebar">Quick search</div>
<main><h1>Pump<a class="headerlink" href="#x">¶</a></h1><p>The pump is <b>bled</b>
at the upper&nbsp;valve.</p><h2>Tools</h2><ul><li>Spanner<li>Bucket</ul>
<table><tr><th>tool<th>size<tr><td>spanner<td>12 mm</table><pre>bleed(
    valve)</pre><script>alert(1)</script></main><footer>Imprint</footer></body></html>"""

MARKDOWN = """---
title: "Pump manual"
---

# Bleeding

The pump is bled at the *upper* valve.

```python
# not a heading
bleed()
```

Tools of `all` sorts
--------------------

| tool | size |
|------|------|
| spanner | 12 mm |

After the table.
"""

CODE = '''"""A pump."""

import valves


# How hard it presses.
LIMIT = 3


class Pump:
    """Moves water."""

    def bleed(self):
        return valves.upper


@property
def spare():
    é = "é"
    return é
'''
