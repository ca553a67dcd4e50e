"""Servers of small real models, shared by the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3_rag import Document, Embedder, Pipeline, Reranker
from served import Served, served

# Compiling in the middle of a test, after many others, would let its clients wait for half a minute.
EAGER = {"compile": False}


@pytest.fixture(scope="session")
def reranker(tiny_reranker: Path) -> Reranker:
    instructions = {"ours": "Given a riddle, find its solution"}
    return Reranker(str(tiny_reranker), dtype="float32", instructions=instructions, runtime_options=EAGER)


@pytest.fixture(scope="session")
def embedder(tiny_embedder: Path) -> Embedder:
    return Embedder(str(tiny_embedder), dtype="float32", runtime_options=EAGER)


@pytest.fixture(scope="session")
def models(embedder: Embedder, reranker: Reranker) -> Iterator[Served]:
    """A server of both models, without a store."""
    with served(embedder, reranker) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path, embedder: Embedder, reranker: Reranker) -> Iterator[Pipeline]:
    with Pipeline.create(tmp_path / "store", embedder, reranker) as pipeline:
        pipeline.add(
            [
                Document("The moon raises the tides.", "sea/tides", title="Tides", metadata={"year": 2020}),
                Document("Bread rises with yeast.\nIt is baked.\nIt is eaten.", "kitchen/bread"),
                Document("Gravity attracts bodies.", "physics/gravity", metadata={"year": 1687}),
            ]
        )
        yield pipeline


@pytest.fixture(scope="session")
def demo_server() -> Iterator[Served]:
    """A server of the demo reranker, which ranks as a real model does."""
    with served(None, Reranker("demo"), reranker_name="demo") as running:
        yield running
