"""The suites that LangChain publishes for its integrations, on this package's components."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from fakes import LengthReranker, WordEmbedder
from langchain_qwen3_rag import Qwen3Embeddings, Qwen3Retriever, Qwen3VectorStore
from qwen3_rag import Document, Pipeline


class _Embeddings:
    @pytest.fixture(autouse=True)
    def _folder(self, tiny_embedder: Path) -> None:
        self.folder = tiny_embedder

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return Qwen3Embeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": str(self.folder), "dtype": "float32"}


class TestEmbeddingsUnit(_Embeddings, EmbeddingsUnitTests):
    pass


class TestEmbeddingsIntegration(_Embeddings, EmbeddingsIntegrationTests):
    pass


class TestRetrieverIntegration(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path) -> Iterator[None]:
        with Pipeline.create(tmp_path / "store", WordEmbedder(), LengthReranker()) as self.pipeline:
            self.pipeline.add([Document(f"Tide number {number}.") for number in range(5)])
            yield

    @property
    def retriever_constructor(self) -> type[Qwen3Retriever]:
        return Qwen3Retriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"pipeline": self.pipeline}

    @property
    def retriever_query_example(self) -> str:
        return "tide"


class TestVectorStoreIntegration(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[Qwen3VectorStore]:
        store = Qwen3VectorStore(tmp_path / "store", DeterministicFakeEmbedding(size=8))
        yield store
        store.close()


class TestVectorStoreWithOurEmbeddings(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[Qwen3VectorStore]:
        store = Qwen3VectorStore(tmp_path / "store", Qwen3Embeddings(embedder=WordEmbedder()))
        yield store
        store.close()
