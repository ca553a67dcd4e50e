"""Files made to hang, crash or fill the memory of whatever reads them."""

import io
import zlib
from pathlib import Path

from ingest.samples import write_pdf

FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
GOOD = b"BT /F1 12 Tf 50 700 Td (A good first page.) Tj ET"
WRITE_FONT = b"/Font << /F1 3 0 R >>"


def put_together(objects: list[bytes]) -> bytes:
    """A PDF of these objects; the first is the catalogue."""
    out, places = io.BytesIO(b"%PDF-1.4\n"), []
    out.seek(0, 2)
    for number, body in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, start))
    return out.getvalue()


def stream(data: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), entries, data)


def form(data: bytes, resources: bytes) -> bytes:
    kind = b"/Type /XObject /Subtype /Form /BBox [0 0 600 800] /Resources << %s >>" % resources
    return stream(data, kind)


def two_pages(second: bytes, resources: bytes = WRITE_FONT, more: list[bytes] | None = None) -> bytes:
    """A page that can be read, then one with this content stream; further objects begin with number 8."""
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents %s /Resources << %s >> >>"
    return put_together(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Count 2 /Kids [5 0 R 7 0 R] >>",
            FONT,
            stream(GOOD),
            page % (b"4 0 R", WRITE_FONT),
            second,
            page % (b"6 0 R", resources),
            *(more or []),
        ]
    )


def bomb(size: int) -> bytes:
    """A page whose content is compressed twice and unpacks to `size` bytes."""
    packer, spaces = zlib.compressobj(9), b" " * (1 << 20)
    packed = b"".join(packer.compress(spaces) for _ in range(size >> 20)) + packer.flush()
    return two_pages(stream(zlib.compress(packed, 9), b"/Filter [/FlateDecode /FlateDecode]"))


def laughs(depth: int = 10) -> bytes:
    """A page that draws a form ten times, which draws another ten times, and so on."""
    forms = [
        form(b"/X%d Do " % (n + 1) * 10, b"/XObject << /X%d %d 0 R >>" % (n + 1, n + 1)) for n in range(8, 7 + depth)
    ]
    last = form(b"BT /F1 12 Tf (ha) Tj ET", WRITE_FONT)
    return two_pages(stream(b"/X8 Do " * 10), b"/XObject << /X8 8 0 R >>", [*forms, last])


def loop() -> bytes:
    """A page with a form that draws itself."""
    entry = b"/XObject << /X8 8 0 R >>"
    return two_pages(stream(b"/X8 Do"), entry, [form(b"/X8 Do", entry)])


def flipped(content: bytes, step: int = 7) -> bytes:
    """The content with a bit flipped in every few bytes after its head."""
    return bytes(
        byte ^ (1 << place % 8) if place > 64 and place % step == 0 else byte for place, byte in enumerate(content)
    )


def write_hostile_pdfs(folder: Path) -> None:
    write_pdf(folder / "good.pdf", ["one page"])
    content = (folder / "good.pdf").read_bytes()
    (folder / "truncated.pdf").write_bytes(content[: len(content) // 3])
    (folder / "flipped.pdf").write_bytes(flipped(content))
    write_pdf(folder / "encrypted.pdf", ["secret"], password="open sesame")
    (folder / "bomb.pdf").write_bytes(bomb(1 << 30))
    (folder / "laughs.pdf").write_bytes(laughs())
    (folder / "loop.pdf").write_bytes(loop())


def nested_html(depth: int) -> str:
    return "<html><body>" + "<div>" * depth + "text"


def html_of_attributes(count: int) -> str:
    return "<html><body><p " + " ".join(f"a{number}=1" for number in range(count)) + ">text"
