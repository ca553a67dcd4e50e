"""Headers and footers of pages are left out; the text of pages is not."""

from pathlib import Path

from ingest.samples import write_pdf
from qwen3_rag.ingest.readers import read
from qwen3_rag.ingest.running_heads import without_running_heads

TEXTS = ["The pump is bled.", "A spanner is needed.", "Turn the valve.", "Wait for an hour.", "Done."]


def page(number: int, text: str) -> str:
    return f"Pump manual\nIssue 7\n{text}\nIt is safe {text.lower()}\nPage {number} of 5"


def test_running_heads_and_page_numbers_are_left_out(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", [page(number, text) for number, text in enumerate(TEXTS, start=1)])
    (parsed,) = read(tmp_path / "a.pdf")
    assert parsed.document.text == "\n\n".join(f"{text}\nIt is safe {text.lower()}" for text in TEXTS)
    assert [parsed.document.text[start:].split("\n")[0] for start in parsed.pages] == TEXTS


def test_running_heads_need_four_pages_and_most_of_them() -> None:
    pages = [page(number, text) for number, text in enumerate(TEXTS, start=1)]
    assert without_running_heads(pages[:3]) == pages[:3]
    some = ["Part one\na", "Part one\nb", "x\nc", "y\nd"]
    assert without_running_heads(some) == some


def test_running_heads_leave_pages_without_them_and_empty_pages_as_they_are() -> None:
    pages = ["Head\na", "Head\nb", "", "Head\n\nc", "cover", "Head\nd"]
    assert without_running_heads(pages) == ["a", "b", "", "c", "cover", "d"]


def test_running_heads_never_take_the_only_line_of_a_page() -> None:
    pages = [f"Slide {number}" for number in range(5)]
    assert without_running_heads(pages) == pages
