from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3_rag import Document
from qwen3_rag.index.retriever import Retriever, fuse
from qwen3_rag.index.store import Store
from qwen3_rag.index.text import query_terms, terms_of

TEXTS = {
    "zh": "潮汐是由月球引力引起的海水涨落。",
    "ja": "東京タワーは港区にあります。",
    "th": "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "ar": "القَاهِرَةُ عَاصِمَةُ مِصْرَ",
    "hi": "दिल्ली भारत की राजधानी है",
    "code": "def getUserName(user_id): return HTTPServer2.load(user_id)",
    "fr": "L'été à la plage, c'était magnifique",
}


@pytest.fixture
def retriever(tmp_path: Path) -> Iterator[Retriever]:
    import numpy as np

    from qwen3_rag.index.store import PassageRow

    store = Store.create(tmp_path / "store", {}, dimensions=4)
    row = np.zeros(4, dtype=np.float32)
    store.write([(Document(t, name), [PassageRow(0, len(t), name.encode(), row)]) for name, t in TEXTS.items()])
    yield Retriever(store)
    store.close()


def first(retriever: Retriever, query: str) -> str | None:
    hits = retriever.search(query, None, 3, "lexical", None)
    return hits[0][0].document_id if hits else None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("潮汐", "zh"), ("月", "zh"), ("落", "zh"), ("東京", "ja"), ("タワー", "ja"), ("เมืองหลวง", "th"),
        ("القاهرة", "ar"), ("مصر", "ar"), ("राजधानी", "hi"), ("getUserName", "code"), ("get_user_name", "code"),
        ("user name", "code"), ("HTTPServer", "code"), ("USER_ID", "code"), ("été", "fr"), ("plage", "fr"),
        ("ete", None),
    ],
)  # fmt: skip
def test_query_terms_match_words_of_every_script_and_identifiers(
    retriever: Retriever, query: str, expected: str | None
) -> None:
    assert first(retriever, query) == expected


@pytest.mark.parametrize(
    "query", ['"', "a OR b", "NEAR(", "terms:x", "*", "^a", "-plage", "''; DROP TABLE terms", "\0", "…"]
)
def test_a_query_has_no_syntax(retriever: Retriever, query: str) -> None:
    retriever.search(query, None, 3, "lexical", None)
    assert first(retriever, "plage") == "fr"


def test_terms() -> None:
    assert dict(terms_of("getUserName")) == {"getusername": 1, "get": 1, "user": 1, "name": 1}
    assert dict(terms_of("潮汐表")) == {"潮": 1, "汐": 1, "表": 1, "潮汐": 1, "汐表": 1}
    assert dict(terms_of("Tide tide TIDE")) == {"tide": 3}
    assert query_terms("潮") == ["潮"]
    assert query_terms("潮汐") == ["潮汐"]
    assert query_terms('a"b a') == ["a", "b"]
    assert terms_of("x" * 101) == {}


def test_unspaced_runs_and_overlong_words_are_not_cached() -> None:
    from qwen3_rag.index.text import _terms_of_spaced, terms_of_word

    _terms_of_spaced.cache_clear()
    for word in ("潮汐是由月球引力引起的", "กรุงเทพ", "x" * 101):
        terms_of_word(word)
    assert _terms_of_spaced.cache_info().currsize == 0
    assert terms_of_word("userName") is terms_of_word("userName")


def test_fuse_prefers_passages_in_both_rankings() -> None:
    import numpy as np

    def ranking(numbers: list[int], scores: list[float]) -> tuple[np.ndarray, np.ndarray]:
        return np.array(numbers, dtype=np.int64), np.array(scores, dtype=np.float32)

    dense, lexical = ranking([1, 2, 3], [0.9, 0.85, 0.7]), ranking([2, 4], [8.0, 4.0])
    numbers, scores = fuse(dense, lexical, 3)
    assert numbers.tolist() == [2, 1, 4]
    assert scores.tolist() == pytest.approx([0.7 * 0.75 + 0.3, 0.7, 0.15])
    assert fuse(dense, lexical, 2)[0].tolist() == [2, 1]  # 4 is the last of a full list
    assert fuse(dense, ranking([], []), 3)[0].tolist() == [1, 2, 3]
    assert fuse(ranking([], []), lexical, 3)[0].tolist() == [2, 4]
    single = fuse(ranking([5], [0.3]), ranking([5], [2.0]), 3)
    assert single[1].tolist() == pytest.approx([1.0])
