"""Native vectors equal the official formula's."""

from pathlib import Path

import numpy as np
import pytest

from conftest import save_model
from models.official import OfficialVectors
from models.test_reranker import QUERIES, TEXTS
from qwen3_rag import Embedder
from qwen3_rag.errors import InvalidArgumentError, UnknownNameError
from qwen3_rag.models.identity import check_same, describe_maker
from qwen3_rag.prompts import INSTRUCTIONS

LONG = "\n".join(TEXTS)


@pytest.fixture(scope="module")
def native(tiny_embedder: Path) -> Embedder:
    return Embedder(str(tiny_embedder), dtype="float32")


@pytest.fixture(scope="module")
def official(tiny_embedder: Path) -> OfficialVectors:
    return OfficialVectors(tiny_embedder)


def assert_same(vectors: np.ndarray, expected: np.ndarray) -> None:
    cosine = (vectors.astype(float) * expected.astype(float)).sum(axis=-1)
    assert (1 - cosine).max() < 1e-5
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


def test_documents_equal_the_official_formula(native: Embedder, official: OfficialVectors) -> None:
    documents = [*TEXTS[::4], "", " ", "\n", LONG[:30_000]]
    assert_same(native.encode_document(documents), np.stack([official.encode([d])[0].numpy() for d in documents]))


def test_32k_tokens_equal_the_official_formula(tmp_path: Path, tokenizer_json: str) -> None:
    folder = save_model(tmp_path, "embedding", tokenizer=tokenizer_json, layers=1)
    native, text = Embedder(str(folder), dtype="float32", max_length=32768), LONG * 3
    assert len(native.spans(text)) > 32768
    assert_same(native.encode_document([text]), OfficialVectors(folder, 32768).encode([text]).numpy())


def test_queries_equal_the_official_formula(native: Embedder, official: OfficialVectors) -> None:
    for name in ("web-search", "code-search"):
        prompts = [f"Instruct: {INSTRUCTIONS[name]}\nQuery:{query}" for query in QUERIES[:10]]
        assert_same(native.encode_query(QUERIES[:10], name), official.encode(prompts).numpy())


def test_padded_batches_equal_ours(native: Embedder, official: OfficialVectors) -> None:
    assert_same(native.encode_document(TEXTS[:16]), official.encode(TEXTS[:16]).numpy())


@pytest.mark.parametrize("max_length", [2, 33, 200])
def test_truncated_documents_equal_the_official_formula(tiny_embedder: Path, max_length: int) -> None:
    native = Embedder(str(tiny_embedder), dtype="float32", max_length=max_length)
    expected = OfficialVectors(tiny_embedder, max_length).encode(TEXTS[:8]).numpy()
    assert_same(native.encode_document(TEXTS[:8]), expected)


def test_fewer_dimensions_are_the_first_values_renormalised(tiny_embedder: Path, official: OfficialVectors) -> None:
    small = Embedder(str(tiny_embedder), dtype="float32", dimensions=32)
    assert small.dimensions == 32
    assert_same(small.encode_document(TEXTS[:4]), official.encode(TEXTS[:4], dimensions=32).numpy())
    for wrong in (31, 65):
        with pytest.raises(InvalidArgumentError, match=f"dimensions is {wrong}; this model gives 32 to 64"):
            Embedder(str(tiny_embedder), dimensions=wrong).encode_document("a")


def test_the_reference_runtime_agrees(native: Embedder) -> None:
    reference = Embedder(native.model, dtype="float32", runtime="transformers")
    assert_same(native.encode_document(TEXTS[:9]), reference.encode_document(TEXTS[:9]))
    assert_same(native.encode_query(QUERIES[:3]), reference.encode_query(QUERIES[:3]))


def test_result_shapes_follow_the_input(native: Embedder) -> None:
    assert native.encode_query("one").shape == (64,)
    assert native.encode_document(["one"]).shape == (1, 64)
    assert native.encode_document([]).shape == native.encode_query([]).shape == (0, 64)
    assert native.encode_document("one").dtype == np.float32


def test_wrong_arguments_are_errors(native: Embedder) -> None:
    with pytest.raises(InvalidArgumentError, match=r"texts\[1\] is None"):
        native.encode_document(["a", None])  # type: ignore[list-item]
    with pytest.raises(InvalidArgumentError, match=r"instruction and query take .* max_length=8192"):
        native.encode_query("long " * 9000)
    reference = Embedder(native.model, runtime="transformers", max_length=64)
    with pytest.raises(InvalidArgumentError, match=r"instruction and query take .* max_length=64"):
        reference.encode_query("long " * 500)
    with pytest.raises(UnknownNameError, match="unknown embedder 'bert'"):
        Embedder("bert")
    with pytest.raises(UnknownNameError, match="unknown embedder runtime 'vllm2'"):
        Embedder(runtime="vllm2")
    with pytest.raises(InvalidArgumentError, match="dimensions is 0"):
        Embedder(dimensions=0)


def test_check_same_recognises_an_embedder_by_its_vectors(native: Embedder, tiny_embedder: Path) -> None:
    maker = describe_maker(native)
    check_same(Embedder(str(tiny_embedder), dtype="bfloat16"), maker)
    with pytest.raises(ValueError, match="gives 32 dimensions"):
        check_same(Embedder(str(tiny_embedder), dtype="float32", dimensions=32), maker)
    other = maker | {"probe": describe_maker(Embedder(str(tiny_embedder), dtype="float32"))["probe"][::-1]}
    with pytest.raises(ValueError, match="embeds a fixed text differently"):
        check_same(native, other)
