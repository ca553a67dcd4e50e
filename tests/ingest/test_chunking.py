import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from qwen3_rag.ingest.chunking import chunk

TEXTS = [json.loads(line)["text"] for line in (ROOT / "data/demo/corpus.jsonl").read_text("utf-8").splitlines()]


def words(text: str) -> np.ndarray:
    """Token offsets of a stand-in tokenizer: every character that is no blank is a token."""
    return np.array([(i, i + 1) for i, c in enumerate(text) if not c.isspace()], dtype=np.int64).reshape(-1, 2)


def count(text: str) -> int:
    return len(words(text))


PARTS = [*TEXTS[::20], "\n\n", "x" * 90, ".", "中文。", "\n- item\n"]


@given(st.lists(st.sampled_from(PARTS), max_size=8), st.integers(8, 200))
@settings(max_examples=150, deadline=None)
def test_passages_are_in_order_within_size_and_lose_nothing(parts: list[str], size: int) -> None:
    text = "".join(parts)
    spans = chunk(text, words(text), size, size // 4)
    covered = np.zeros(len(text), dtype=bool)
    for start, end in spans:
        passage = text[start:end]
        assert passage == passage.strip() != ""
        assert count(passage) <= size
        covered[start:end] = True
    assert all(character.isspace() for character, inside in zip(text, covered, strict=True) if not inside)
    assert spans == sorted(set(spans))


def test_a_short_text_is_one_passage() -> None:
    assert chunk("  one. two.  ", words("  one. two.  "), 10, 2) == [(2, 11)]
    assert chunk(" \n ", words(" \n "), 10, 2) == []
    assert chunk("", words(""), 10, 2) == []


def test_cuts_fall_between_paragraphs_then_sentences() -> None:
    text = "Aaaa aaaa. Bbbb bbbb.\n\nCccc cccc. Dddd dddd."
    passages = [text[start:end] for start, end in chunk(text, words(text), 30, 0)]
    assert passages == ["Aaaa aaaa. Bbbb bbbb.", "Cccc cccc. Dddd dddd."]
    passages = [text[start:end] for start, end in chunk(text, words(text), 10, 0)]
    assert passages == ["Aaaa aaaa.", "Bbbb bbbb.", "Cccc cccc.", "Dddd dddd."]


@pytest.mark.parametrize("text", ["一二三。四五六！七八九？", "نعم نعم؟ لا لا۔ نعم", "क ख ग। घ च छ। ज झ ट।"])
def test_sentences_end_in_every_script(text: str) -> None:
    passages = [text[start:end] for start, end in chunk(text, words(text), 8, 0)]
    assert len(passages) >= 2
    assert all(passage[-1] in "。！？؟۔।" for passage in passages[:-1])


def test_overlap_repeats_whole_sentences() -> None:
    text = "Aaaa. Bbbb. Cccc. Dddd. Eeee."
    passages = [text[start:end] for start, end in chunk(text, words(text), 15, 5)]
    assert passages == ["Aaaa. Bbbb. Cccc.", "Cccc. Dddd. Eeee."]


def test_a_long_word_is_cut_by_tokens() -> None:
    spans = chunk("x" * 25, words("x" * 25), 10, 0)
    assert spans == [(0, 10), (10, 20), (20, 25)]
