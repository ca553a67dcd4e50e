"""Arabic and Hebrew in PDFs come in the order they are read, however they are stored."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ingest.hostile import put_together, stream
from qwen3_rag.ingest.parsers.visual_order import in_logical_order
from qwen3_rag.ingest.readers import read

WIDTH = 7.2  # of a character of Courier in 12 points


def written(path: Path, runs: Sequence[tuple[float, str]]) -> None:
    """A PDF of one line; each run of characters is drawn from left to right from a place on."""
    codes = {character: n for n, character in enumerate(sorted({c for _, run in runs for c in run}), start=33)}
    entries = "".join(f"<{code:02X}> <{ord(character):04X}>\n" for character, code in codes.items())
    unicode = (
        "begincmap 1 begincodespacerange <00> <FF> endcodespacerange "
        f"{len(codes)} beginbfchar\n{entries}endbfchar endcmap"
    )
    drawn = (f"1 0 0 1 {x:.1f} 700 Tm <{''.join(f'{codes[c]:02X}' for c in run)}> Tj" for x, run in runs)
    resources = b"<< /Font << /F1 3 0 R >> >>"
    path.write_bytes(
        put_together(
            [
                b"<< /Type /Catalog /Pages 2 0 R >>",
                b"<< /Type /Pages /Count 1 /Kids [5 0 R] >>",
                b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier /ToUnicode 6 0 R >>",
                stream(f"BT /F1 12 Tf {' '.join(drawn)} ET".encode()),
                b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources %s >>" % resources,
                stream(unicode.encode()),
            ]
        )
    )


LINE = "שלום עולם 12.5 abc סוף"
SEEN = LINE[::-1].replace("5.21", "12.5").replace("cba", "abc")


@pytest.mark.parametrize("by_letter", [False, True])
def test_pdf_gives_right_to_left_lines_in_the_order_they_are_read(tmp_path: Path, by_letter: bool) -> None:
    places = [(50 + WIDTH * n, character) for n, character in enumerate(SEEN)]
    written(tmp_path / "a.pdf", places if by_letter else [(50, SEEN)])
    (parsed,) = read(tmp_path / "a.pdf")
    # PDFium splits the first letter that is drawn off its line.
    line = parsed.document.text.split("\n")[-1]
    # Between a number and a word of another script both orders look the same.
    assert line == ("שלום עולם abc 12.5 סו" if by_letter else LINE)


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        ("םלוע םולש", "שלום עולם"),
        ("(3.5%) םלוע", "עולם (3.5%)"),
        (".םולש 12 ףוס", "סוף 12 שלום."),
        ("In it םולש stands.", "In it שלום stands."),
        ("plain (text)", "plain (text)"),
        ("סלש\r\nab", "שלס\r\nab"),
    ],
)
def test_in_logical_order_turns_lines_whose_letters_step_rightwards(seen: str, text: str) -> None:
    assert in_logical_order(seen, float) == text
    assert in_logical_order(seen, lambda place: float(-place)) == seen


def test_in_logical_order_takes_linear_time() -> None:
    text = "שa " * 100_000 + "(" * 100_000
    assert len(in_logical_order(text, float)) == len(text)
