"""In every runtime the empty text has the official vector, which is that of `<|endoftext|>` alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.official import OfficialVectors
from qwen3_rag import Embedder
from qwen3_rag.models.checkpoints.formats import EmbedFormat
from qwen3_rag.models.checkpoints.tokens import Tokens
from qwen3_rag.models.runtimes.server import ServerEmbedder
from qwen3_rag.models.runtimes.vllm import VllmEmbedder
from qwen3_rag.prompts import DEFAULT_INSTRUCTION, INSTRUCTIONS, embed_query
from qwen3_rag.scores import Cancellation

RUNTIMES = ["native", "transformers", "sentence-transformers"]
TEXTS = ["", "The moon pulls the sea.", " ", "\n\n", "\t", "", "潮汐", "\u3000", "Bread " * 300]
QUERIES = ["", "tides", " "]


@pytest.fixture(scope="module")
def official(tiny_embedder: Path) -> OfficialVectors:
    return OfficialVectors(tiny_embedder)


@pytest.fixture(scope="module")
def expected(official: OfficialVectors) -> np.ndarray:
    return np.stack([official.encode([text])[0].numpy() for text in TEXTS])


@pytest.fixture(scope="module")
def library_folder(tiny_embedder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint with the files of sentence-transformers and a tokenizer that adds no end token."""
    folder = tmp_path_factory.mktemp("library") / "model"
    shutil.copytree(tiny_embedder, folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"word_embedding_dimension": 64, "pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False})
    )
    return folder


def assert_same(vectors: np.ndarray, expected: np.ndarray) -> None:
    cosine = (vectors.astype(float) * expected.astype(float)).sum(axis=-1)
    assert (1 - cosine).max() < 1e-5, cosine
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_empty_and_blank_texts_have_the_official_vector_alone_and_among_others(
    runtime: str, tiny_embedder: Path, expected: np.ndarray
) -> None:
    embedder = Embedder(str(tiny_embedder), dtype="float32", runtime=runtime)
    assert_same(embedder.encode_document(TEXTS), expected)
    assert_same(embedder.encode_document(TEXTS[::-1]), expected[::-1])
    assert_same(embedder.encode_document(""), expected[0])
    assert_same(embedder.encode_document(["", ""]), expected[[0, 0]])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_empty_queries_have_the_official_vector_of_their_instruction(
    runtime: str, tiny_embedder: Path, official: OfficialVectors
) -> None:
    embedder = Embedder(str(tiny_embedder), dtype="float32", runtime=runtime)
    for name in (DEFAULT_INSTRUCTION, "code-search"):
        prompts = [embed_query(INSTRUCTIONS[name], query) for query in QUERIES]
        assert_same(embedder.encode_query(QUERIES, name), official.encode(prompts).numpy())


def test_empty_texts_have_the_official_vector_at_the_least_length(tiny_embedder: Path, expected: np.ndarray) -> None:
    for runtime in RUNTIMES:
        embedder = Embedder(str(tiny_embedder), dtype="float32", runtime=runtime, max_length=2)
        assert_same(embedder.encode_document(["", "The moon"])[:1], expected[:1])


def test_empty_texts_have_no_zero_vector_where_the_librarys_tokenizer_adds_no_end(
    library_folder: Path, expected: np.ndarray
) -> None:
    embedder = Embedder(str(library_folder), dtype="float32", runtime="sentence-transformers")
    assert_same(embedder.encode_document(["", "The moon", ""])[[0, 2]], expected[[0, 0]])


def test_vllm_gets_only_the_end_token_for_an_empty_text(tiny_embedder: Path) -> None:
    sent: list[list[int]] = []

    class Engine:
        def rows(self, sequences: list[list[int]], cancellation: Cancellation | None = None) -> Any:
            sent.extend(sequences)
            yield range(len(sequences)), np.ones((len(sequences), 64), dtype=np.float32)

    runtime = VllmEmbedder.__new__(VllmEmbedder)
    tokens = Tokens(tiny_embedder)
    runtime.format, runtime.dimensions, runtime.engine = EmbedFormat(tokens, 8192), 64, Engine()  # type: ignore[assignment]
    runtime.embed_documents(["", "a"])
    end = tokens.token_id("<|endoftext|>")
    assert sent == [[end], [*tokens.encode(["a"])[0], end]]


def test_a_server_that_takes_ids_gets_only_the_end_token_for_an_empty_text(tiny_embedder: Path) -> None:
    runtime = ServerEmbedder.__new__(ServerEmbedder)
    tokens = Tokens(tiny_embedder)
    runtime.format, runtime.sends_ids = EmbedFormat(tokens, 8192), True
    end = tokens.token_id("<|endoftext|>")
    assert runtime._documents(["", "a"])[0] == [[end], [*tokens.encode(["a"])[0], end]]
