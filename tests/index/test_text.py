from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3_rag import Document
from qwen3_rag.index.retriever import Retriever, fuse
from qwen3_rag.index.store import Store
from qwen3_rag.index.text import query_terms, segment

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

    store = Store.create(tmp_path / "store", {})
    row = np.zeros(4, dtype=np.float32)
    store.write([(Document(t, name), [PassageRow(0, len(t), name.encode(), row)]) for name, t in TEXTS.items()])
    yield Retriever(store, 4)
    store.close()


def first(retriever: Retriever, query: str) -> str | None:
    hits = retriever.search(query, None, 3, "lexical", None)
    return hits[0][0].document.id if hits else None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("潮汐", "zh"), ("月", "zh"), ("落", "zh"), ("東京", "ja"), ("タワー", "ja"), ("เมืองหลวง", "th"),
        ("القاهرة", "ar"), ("مصر", "ar"), ("राजधानी", "hi"), ("getUserName", "code"), ("get_user_name", "code"),
        ("user name", "code"), ("HTTPServer", "code"), ("USER_ID", "code"), ("été", "fr"), ("plage", "fr"),
        ("ete", None),
    ],
)  # fmt: skip
def test_words_of_every_script_and_identifiers_are_found(
    retriever: Retriever, query: str, expected: str | None
) -> None:
    assert first(retriever, query) == expected


@pytest.mark.parametrize(
    "query", ['"', "a OR b", "NEAR(", "terms:x", "*", "^a", "-plage", "''; DROP TABLE terms", "\0", "…"]
)
def test_nothing_in_a_query_is_syntax(retriever: Retriever, query: str) -> None:
    retriever.search(query, None, 3, "lexical", None)
    assert first(retriever, "plage") == "fr"


def test_terms() -> None:
    assert segment("getUserName") == ["getusername", "get", "user", "name"]
    assert segment("潮汐表") == ["潮汐", "汐表", "表"]
    assert query_terms("潮") == ['"潮"*']
    assert query_terms('a"b') == ['"a"', '"b"']


def test_fusion_prefers_what_both_rankings_hold() -> None:
    import numpy as np

    numbers, scores = fuse([np.array([1, 2, 3]), np.array([3, 4])], 3)
    assert numbers.tolist() == [3, 1, 2]
    assert scores[0] == pytest.approx(1 / 63 + 1 / 61)
