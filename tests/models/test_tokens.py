import json
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qwen3_rag.errors import ModelError
from qwen3_rag.models.checkpoints.formats import RerankFormat
from qwen3_rag.models.checkpoints.tokens import Tokens, well_formed
from qwen3_rag.prompts import RERANK_PREFIX, RERANK_SUFFIX, rerank_query


@pytest.fixture(scope="module")
def real(qwen3_tokenizer: str, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    folder = tmp_path_factory.mktemp("qwen3")
    (folder / "tokenizer.json").write_text(qwen3_tokenizer, encoding="utf-8")
    return Tokens(folder)


@pytest.fixture(scope="module")
def small(tokenizer_json: str, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    folder = tmp_path_factory.mktemp("small")
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    return Tokens(folder)


def test_the_template_has_the_official_ids(real: Tokens) -> None:
    prefix, suffix = real.encode_control(RERANK_PREFIX), real.encode_control(RERANK_SUFFIX)
    assert (len(prefix), len(suffix)) == (39, 9)
    assert (prefix[0], suffix[0]) == (151644, 151645)
    assert (real.token_id("no"), real.token_id("yes"), real.token_id("<|endoftext|>")) == (2152, 9693, 151643)


def test_no_text_encodes_to_an_added_token(real: Tokens) -> None:
    spellings = [token["content"] for token in json.loads(real.control.to_str())["added_tokens"]]
    assert len(spellings) == 26
    for spelling in spellings:
        for text in (spelling, f"a{spelling}b", f"{spelling}\n{spelling}", spelling * 3):
            ids = real.encode([text])[0]
            assert not real.control_ids.intersection(ids)
            assert real.plain.decode(ids) == text


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_plain_and_full_tokenizer_agree_on_ordinary_text(small: Tokens, text: str) -> None:
    text = well_formed(text)
    spelled = [token["content"] for token in json.loads(small.control.to_str())["added_tokens"]]
    assume(not any(token in text for token in spelled))
    assert small.encode([text])[0] == small.control.encode(text, add_special_tokens=False).ids


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_query_and_document_encoded_separately_equal_the_whole_body(small: Tokens, query: str, document: str) -> None:
    head = rerank_query("Retrieve it", well_formed(query))
    separate = small.encode([head, f" {document}"])
    assert separate[0] + separate[1] == small.encode([f"{head} {document}"])[0]


def test_encoding_query_and_document_separately_is_exact_with_the_real_tokenizer(real: Tokens) -> None:
    documents = [
        "",
        " ",
        "\n",
        "\r\n x",
        "1",
        "中",
        "\u0301",
        ":",
        "…",
        "ـ",
        "\t",
        "<|im_end|>",
        "👩‍👩‍👧",
        "\u00a0",
        "\u2028",
    ]
    head = rerank_query("i", "q")
    for document in documents:
        separate = real.encode([head, f" {document}"])
        assert separate[0] + separate[1] == real.encode([f"{head} {document}"])[0]


def test_lone_surrogates_are_replaced(small: Tokens) -> None:
    assert well_formed("a\ud800b") == "a\ufffdb"
    assert small.encode(["a\ud800b"]) == small.encode(["a\ufffdb"])


def test_spans_cover_the_text(small: Tokens) -> None:
    text = "Ärger 中文 👍 tides"
    spans = small.spans(text)
    assert spans[0, 0] == 0
    assert spans[-1, 1] == len(text)
    assert (spans[1:, 0] >= spans[:-1, 0]).all()


def test_a_tokenizer_whose_words_are_control_tokens_is_rejected(tmp_path: Path) -> None:
    from tokenizers import AddedToken, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"<end>": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="'<end>' would become a control token"):
        Tokens(tmp_path)


def test_the_error_names_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        Tokens(tmp_path)


def test_a_tokenizer_that_merges_query_and_document_is_rejected(tmp_path: Path) -> None:
    from tokenizers import models, trainers

    tokenizer = Tokenizer(models.BPE())
    corpus = ["<Document>: a"] * 50 + ["<Instruct>: i\n<Query>: q\n"]
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="merges '<Document>:' with the text after it"):
        RerankFormat(Tokens(tmp_path), 512)


@pytest.mark.parametrize("at_most", [1, 5, 40])
def test_a_text_that_is_cut_before_it_is_encoded_has_the_same_first_ids(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch, at_most: int
) -> None:
    monkeypatch.setattr("qwen3_rag.models.checkpoints.tokens.FEW", 0)
    tokens = Tokens(tiny_reranker)
    for text in (
        "The moon raises the tides. " * 200, "潮汐是由月球引起的。" * 300, "x" * 4000 + " y" * 900, "!?\n" * 2000,
        "   \n\t " * 900, "word\n\n" * 900, "a" * 9000, "<|im_end|> " * 500, "é🙂 " * 900, "don't  stop 'll " * 400,
    ):  # fmt: skip
        (whole,), (cut,) = tokens.encode([text]), tokens.encode([text], at_most)
        assert cut[:at_most] == whole[:at_most]
        assert len(cut) > at_most
        assert len(tokens._beginning(text, at_most + 1)) <= len(text)
    assert len(tokens.encode(["The moon raises the tides. " * 9000], 5)[0]) < 9000
