import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from qwen3_rag.ingest.chunking import Cut, chunk, token_starts
from qwen3_rag.ingest.parsed import Kind, Parsed, Section
from qwen3_rag.records import Document, passage_text

TEXTS = [json.loads(line)["text"] for line in (ROOT / "data/demo/corpus.jsonl").read_text("utf-8").splitlines()]


class Characters:
    """A stand-in tokenizer: every character that is no blank is a token."""

    def spans(self, text: str) -> np.ndarray:
        return np.array([(i, i + 1) for i, c in enumerate(text) if not c.isspace()], dtype=np.int64).reshape(-1, 2)


def count(text: str) -> int:
    return len(Characters().spans(text))


def cut(text: str, size: int, overlap: int = 0, tables: str = "rows", sections: tuple[Section, ...] = ()) -> list[Cut]:
    return chunk(Parsed(Document(text), sections), token_starts(Characters(), text), size, overlap, tables)


def passages(text: str, size: int, overlap: int = 0) -> list[str]:
    return [text[c.start : c.stop] for c in cut(text, size, overlap)]


PARTS = [
    *TEXTS[::20],
    "\n\n",
    "x" * 90,
    ".",
    "中文。",
    "\n- item\n",
    "1. one\n2. two\n",
    "\n\n---\n\n",
    "\r\n",
    "𝒳 ",
    "é\u0301",
]
KINDS: list[Kind] = ["prose", "list", "code", "table"]


@st.composite
def parsed(draw: st.DrawFn) -> Parsed:
    parts = draw(st.lists(st.sampled_from(PARTS), max_size=8))
    text = "".join(parts)
    places = sorted({0, len(text), *draw(st.lists(st.integers(0, len(text)), max_size=5))})
    path = st.lists(st.sampled_from("ABC"), max_size=3).map(tuple)
    length = st.sampled_from((0, 0, 7, 1000))
    sections = tuple(
        Section(a, b, draw(path), draw(st.sampled_from(KINDS)), min(draw(length), b - a)) for a, b in pairwise(places)
    )
    return Parsed(Document(text), sections, tuple(draw(st.lists(st.sampled_from(places), max_size=3).map(sorted))))


@given(parsed(), st.integers(8, 200))
@settings(max_examples=200, deadline=None)
def test_passages_are_in_order_within_size_and_lose_nothing(document: Parsed, size: int) -> None:
    text = document.document.text
    cuts = chunk(document, token_starts(Characters(), text), size, size // 4)
    covered = np.zeros(len(text), dtype=bool)
    for each in cuts:
        passage = text[each.start : each.stop]
        assert passage == passage.strip() != ""
        assert count(passage) <= size
        covered[each.start : each.stop] = True
        touched = [s.headings for s in document.parts if s.start < each.stop and each.start < s.stop]
        above = list(each.headings)
        if all(s.kind != "table" for s in document.parts):
            assert all(list(headings[: len(above)]) == above for headings in touched)
    assert all(character.isspace() for character, inside in zip(text, covered, strict=True) if not inside)
    assert [(c.start, c.stop) for c in cuts] == sorted({(c.start, c.stop) for c in cuts})


def test_a_short_text_is_one_passage() -> None:
    assert cut("  one. two.  ", 10, 2) == [Cut(2, 11)]
    assert cut(" \n ", 10, 2) == []
    assert cut("", 10, 2) == []


def test_cuts_fall_between_paragraphs_then_sentences_then_words() -> None:
    text = "Aaaa aaaa. Bbbb bbbb.\n\nCccc cccc. Dddd dddd."
    assert passages(text, 30) == ["Aaaa aaaa. Bbbb bbbb.", "Cccc cccc. Dddd dddd."]
    assert passages(text, 10) == ["Aaaa aaaa.", "Bbbb bbbb.", "Cccc cccc.", "Dddd dddd."]
    assert passages("aaa bbb ccc ddd eee", 8) == ["aaa bbb", "ccc ddd", "eee"]
    assert passages("Dr. Abel went. Dr. Bose came.", 12) == ["Dr. Abel went.", "Dr. Bose came."]


@pytest.mark.parametrize("text", ["一二三。四五六！七八九？", "نعم نعم؟ لا لا۔ نعم", "क ख ग। घ च छ। ज झ ट।"])
def test_sentences_end_in_every_script(text: str) -> None:
    texts = passages(text, 8)
    assert len(texts) >= 2
    assert all(passage[-1] in "。！？؟۔।" for passage in texts[:-1])


def test_a_long_text_without_a_blank_line_is_cut_into_sentences_in_bearable_time() -> None:
    text = "One two three four five six. " * 20_000
    texts = passages(text, 100)
    assert all(passage.endswith("six.") for passage in texts)
    assert sum(map(count, texts)) == count(text)


def test_overlap_repeats_whole_sentences() -> None:
    assert passages("Aaaa. Bbbb. Cccc. Dddd. Eeee.", 15, 5) == ["Aaaa. Bbbb. Cccc.", "Cccc. Dddd. Eeee."]


def test_a_long_word_is_cut_by_tokens() -> None:
    assert [(c.start, c.stop) for c in cut("x" * 25, 10)] == [(0, 10), (10, 20), (20, 25)]


def sections_of(text: str, *paths: tuple[str, ...], kind: Kind = "prose") -> tuple[Section, ...]:
    size = len(text) // len(paths)
    return tuple(Section(i * size, (i + 1) * size, path, kind) for i, path in enumerate(paths))


def test_no_passage_runs_over_a_heading_unless_sections_are_small() -> None:
    text = ("w" * 19 + " ") * 6
    cuts = cut(text, 60, sections=sections_of(text, ("A",), ("B",), ("B", "C")))
    assert [(c.start, c.stop, c.headings) for c in cuts] == [(0, 39, ("A",)), (40, 79, ("B",)), (80, 119, ("B", "C"))]
    cuts = cut(text, 400, sections=sections_of(text, ("A", "1"), ("A", "2"), ("D", "1")))
    assert [(c.start, c.stop, c.headings) for c in cuts] == [(0, 79, ("A",)), (80, 119, ("D", "1"))]


def test_tables_are_cut_between_rows_and_keep_their_first_row() -> None:
    text = "name | price\n" + "\n".join(f"thing {n} | {n}" for n in range(10))
    table = (Section(0, len(text), ("Prices",), "table"),)
    cuts = cut(text, 30, sections=table)
    assert len(cuts) > 2
    assert all(
        "\n" not in text[c.start - 1 : c.start].strip() and text[c.start :].startswith(("name", "thing")) for c in cuts
    )
    assert {c.headings for c in cuts} == {("Prices",)}
    assert [c.row for c in cuts] == [None] + ["name | price"] * (len(cuts) - 1)
    assert cut(text, 30, tables="drop", sections=table) == []
    assert {(c.headings, c.row) for c in cut(text, 30, tables="text", sections=table)} == {(("Prices",), None)}


def test_code_is_cut_between_lines() -> None:
    text = "def a():\n    return 1.5 + b. c\n\n\ndef b():\n    return 2"
    cuts = cut(text, 25, sections=(Section(0, len(text), (), "code"),))
    assert [text[c.start : c.stop] for c in cuts] == [text[:30], text[33:]]


def test_passages_know_their_page() -> None:
    text = "first page.\n\nsecond page."
    cuts = chunk(Parsed(Document(text), pages=(0, 13)), token_starts(Characters(), text), 12, 0)
    assert [(text[c.start : c.stop], c.page) for c in cuts] == [("first page.", 1), ("second page.", 2)]


def test_what_is_embedded_says_no_heading_twice() -> None:
    assert passage_text("text", "Guide", "Setup > Linux") == "Guide\nSetup > Linux\ntext"
    assert passage_text("## Linux\n\ntext", "Guide", "Setup > Linux") == "Guide\nSetup\n## Linux\n\ntext"
    assert passage_text("Linux\ntext", None, "Linux") == "Linux\ntext"
    assert passage_text("b | 2", "Guide", "Prices\nname | size") == "Guide\nPrices\nname | size\nb | 2"
    assert passage_text("text", "Guide", "Setup", titles=False) == "text"


@given(st.text(max_size=400))
def test_tokens_of_a_long_text_lie_where_those_of_the_whole_do(text: str) -> None:
    from qwen3_rag.ingest import chunking

    whole = token_starts(Characters(), text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "SLAB", 7)
        np.testing.assert_array_equal(token_starts(Characters(), text), whole)


def test_a_passage_ends_with_a_paragraph_that_ends_in_its_second_half() -> None:
    text = "Aaaa aaaa. Bbbb bbbb. Cccc cccc.\n\nDddd dddd. Eeee eeee. Ffff ffff."
    assert passages(text, 50)[0] == "Aaaa aaaa. Bbbb bbbb. Cccc cccc."
    text = "Aaaa aaaa.\n\nBbbb bbbb. Cccc cccc. Dddd dddd. Eeee eeee."
    assert passages(text, 40)[0] == "Aaaa aaaa.\n\nBbbb bbbb. Cccc cccc. Dddd dddd.", "not in its first half"


def test_a_passage_ends_rather_at_a_rule_than_at_a_later_paragraph() -> None:
    text = "Aaaa aaaa. Bbbb bbbb. Cccc cccc.\n\n---\n\nDddd.\n\nEeee eeee. Ffff ffff."
    assert passages(text, 42)[0] == "Aaaa aaaa. Bbbb bbbb. Cccc cccc.\n\n---"


@pytest.mark.parametrize("kind", ["prose", "list"])
def test_a_list_is_split_between_its_items(kind: Kind) -> None:
    text = "- aaaa. bbbb.\n  cccc\n  - dddd\n- eeee. ffff.\n- gggg"
    (first, *_) = cut(text, 28, sections=(Section(0, len(text), (), kind),))
    assert text[: first.stop] == "- aaaa. bbbb.\n  cccc\n  - dddd"


def test_a_number_of_a_list_item_is_not_the_end_of_a_passage() -> None:
    text = "1. Aaaa aaaa\n2. Bbbb bbbb\n3. Cccc cccc"
    assert passages(text, 12) == text.split("\n")


def test_no_passage_is_only_a_heading_if_text_follows_it() -> None:
    text = "# Guide\n\n## Setup\n\n" + "word " * 100
    at = text.index("##")
    sections = (Section(0, at, ("Guide",), "prose", 9), Section(at, len(text), ("Guide", "Setup"), "prose", 10))
    cuts = cut(text, 40, sections=sections)
    assert text[: cuts[0].stop].startswith("# Guide\n\n## Setup\n\nword word")
    assert (cuts[0].headings, cuts[1].headings) == (("Guide",), ("Guide", "Setup"))


def test_a_heading_without_text_goes_to_the_section_below_it() -> None:
    text = "word " * 9 + "\n\n# B\n\n## C\n\n" + "text " * 20
    b, c = text.index("# B"), text.index("## C")
    sections = (
        Section(0, b, ("A",)), Section(b, c, ("B",), "prose", 3), Section(c, len(text), ("B", "C"), "prose", 4)
    )  # fmt: skip
    cuts = cut(text, 50, sections=sections)
    assert text[cuts[1].start :].startswith("# B\n\n## C\n\ntext")


def test_a_table_that_is_dropped_is_in_no_passage() -> None:
    text = "before\n\na | b\n\nafter"
    sections = (Section(0, 8, ("A",)), Section(8, 15, ("A",), "table"), Section(15, 20, ("A",)))
    assert [text[c.start : c.stop] for c in cut(text, 100, tables="drop", sections=sections)] == ["before", "after"]
    assert [text[c.start : c.stop] for c in cut(text, 100, sections=sections)] == [text]


def test_a_passage_ends_rather_before_a_table_than_within_it() -> None:
    text = "Aaaa aaaa. Bbbb bbbb.\n\na | b\nc | d\ne | f\ng | h"
    sections = (Section(0, 23, ("A",)), Section(23, len(text), ("A",), "table"))
    assert [text[c.start : c.stop] for c in cut(text, 26, 9, sections=sections)] == [text[:21], text[23:]]
