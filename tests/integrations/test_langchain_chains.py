"""The reranker as a step of LangChain's chains: configuration of a call, traces, cancelled tasks, many callers."""

import asyncio
import contextvars
import os
import signal
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_classic.retrievers.contextual_compression import ContextualCompressionRetriever
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, RunnablePassthrough
from pydantic import ValidationError

from fakes import LengthReranker
from langchain_qwen3_rag import Qwen3Embeddings, Qwen3Rerank
from qwen3_rag import Reranker
from qwen3_rag.adapters.fields import _Shared

DOCUMENTS = [Document(f"Tide {'and time ' * i}waits.", id=str(i)) for i in range(6)]


def task() -> dict[str, Any]:
    return {"query": "tides", "documents": DOCUMENTS}


class Everything(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: object = None) -> list[Document]:
        return DOCUMENTS


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.parents: dict[Any, Any] = {}
        self.outputs: list[Any] = []
        self.errors: list[BaseException] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **options: Any) -> None:
        self.started.append((options["name"], options["metadata"]))
        self.parents[options["run_id"]] = options["parent_run_id"]

    def on_retriever_start(self, serialized: Any, query: str, **options: Any) -> None:
        self.parents[options["run_id"]] = options["parent_run_id"]

    def on_chain_end(self, outputs: Any, **options: Any) -> None:
        self.outputs.append(outputs)

    def on_chain_error(self, error: BaseException, **options: Any) -> None:
        self.errors.append(error)


def test_rerank_is_a_step_of_a_chain(tiny_reranker: Path) -> None:
    compressor = Qwen3Rerank(model=str(tiny_reranker), dtype="float32", top_n=2)
    chain = {"documents": Everything(), "query": RunnablePassthrough()} | compressor
    expected = compressor.compress_documents(DOCUMENTS, "tides")
    assert chain.invoke("tides") == expected
    assert [d.id for d in chain.batch(["tides", "tides"])[1]] == [d.id for d in expected]
    assert compressor.bind(top_n=1).invoke(task()) == expected[:1]
    with pytest.raises(ValidationError, match="top_n"):
        compressor.invoke(task(), top_n=0)
    with pytest.raises(ValueError, match="expected a dict with query and documents"):
        compressor.invoke({"question": "tides"})
    for wrong in (["a text"], None):
        with pytest.raises(ValueError, match="expected a list of Document"):
            compressor.invoke({"query": "tides", "documents": wrong})


def test_the_instruction_is_a_configurable_field_of_one_call_and_shares_the_weights(tiny_reranker: Path) -> None:
    compressor = Qwen3Rerank(model=str(tiny_reranker), dtype="float32", top_n=6)
    configurable = compressor.configurable_fields(instruction=ConfigurableField("instruction"))
    by_code = configurable.invoke(task(), {"configurable": {"instruction": "code-search"}})
    expected = Reranker(str(tiny_reranker), dtype="float32").rank(
        "tides", [d.page_content for d in DOCUMENTS], instruction="code-search"
    )
    scores = [d.metadata["relevance_score"] for d in by_code]
    assert scores == pytest.approx([place.score for place in expected], abs=1e-5)
    assert scores != [d.metadata["relevance_score"] for d in compressor.invoke(task())]
    changed = configurable.prepare({"configurable": {"instruction": "code-search"}})[0]
    assert isinstance(changed, Qwen3Rerank)
    assert changed.current_reranker() is compressor.current_reranker()


def test_the_compressor_of_a_compression_retriever_is_configurable(tiny_reranker: Path) -> None:
    compressor = Qwen3Rerank(model=str(tiny_reranker), dtype="float32")
    retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Everything())
    by_call = retriever.configurable_fields(base_compressor=ConfigurableField("compressor"))
    other = compressor.model_copy(update={"top_n": 1, "instruction": "code-search"})
    assert len(by_call.invoke("tides")) == 3
    assert by_call.invoke("tides", {"configurable": {"compressor": other}}) == other.compress_documents(
        DOCUMENTS, "tides"
    )


async def test_traces_show_the_step_with_its_model_under_its_caller() -> None:
    compressor = Qwen3Rerank(reranker=LengthReranker(), top_n=1)
    retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Everything())
    for call in (retriever.invoke, retriever.ainvoke):
        recorder = Recorder()
        result = call("tides", {"callbacks": [recorder]})
        documents = await result if asyncio.iscoroutine(result) else result
        ((name, metadata),) = recorder.started
        assert (name, metadata["model"]) == ("Qwen3Rerank", "length")
        assert recorder.outputs == [documents]
        assert None in recorder.parents.values()
        assert len([parent for parent in recorder.parents.values() if parent is not None]) == 2
    recorder = Recorder()
    with pytest.raises(ValueError, match="query"):
        Qwen3Rerank(model="0.6b").compress_documents(DOCUMENTS, "", callbacks=[recorder])
    assert len(recorder.errors) == 1


async def test_context_variables_reach_the_reranker() -> None:
    seen = []

    class Asking(LengthReranker):
        def read(self, *arguments: Any, **options: Any) -> Any:
            seen.append(variable.get())
            return super().read(*arguments, **options)

    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)
    await Qwen3Rerank(reranker=Asking()).ainvoke(task())
    assert seen == [7]


def test_a_lock_held_at_a_fork_does_not_stop_the_child(tiny_reranker: Path) -> None:
    with _Shared.lock, warnings.catch_warnings(action="ignore"):  # Python 3.12 warns about threads at every fork
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            Qwen3Rerank(model=str(tiny_reranker))
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


async def test_a_cancelled_task_leaves_the_queue() -> None:
    seen = []

    class Slow(LengthReranker):
        def read(self, query: str, documents: Any, *arguments: Any, cancel: Any = None, **options: Any) -> Any:
            while not cancel.is_set():
                time.sleep(0.01)
            seen.append("left")
            return super().read(query, documents)

    task = asyncio.create_task(Qwen3Rerank(reranker=Slow()).acompress_documents(DOCUMENTS, "tides"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(200):
        if seen:
            break
        await asyncio.sleep(0.01)
    assert seen == ["left"]


async def test_threads_and_tasks_on_one_model_give_the_serial_results(tiny_reranker: Path, tiny_embedder: Path) -> None:
    compressor = Qwen3Rerank(model=str(tiny_reranker), dtype="float32", top_n=6)
    embeddings = Qwen3Embeddings(model=str(tiny_embedder), dtype="float32")
    queries = [f"tide number {i}" for i in range(32)]

    def work(query: str) -> tuple[list[Document], list[float]]:
        return compressor.compress_documents(DOCUMENTS, query), embeddings.embed_query(query)

    async def awork(query: str) -> tuple[list[Document], list[float]]:
        return await compressor.acompress_documents(DOCUMENTS, query), await embeddings.aembed_query(query)

    serial = [work(query) for query in queries]
    with ThreadPoolExecutor(32) as pool:
        threads = list(pool.map(work, queries))
    tasks = await asyncio.gather(*map(awork, queries))
    for results in (threads, tasks):
        for (documents, vector), (expected, expected_vector) in zip(results, serial, strict=True):
            assert [d.id for d in documents] == [d.id for d in expected]
            scores, wanted = ([d.metadata["relevance_score"] for d in each] for each in (documents, expected))
            assert scores == pytest.approx(wanted, abs=1e-5)
            assert vector == pytest.approx(expected_vector, abs=1e-5)


def test_ties_keep_their_order_whatever_the_ids_and_metadata() -> None:
    documents = [Document("same", id=name, metadata={"place": i}) for i, name in enumerate(["a", None, "a", "b"])]
    kept = Qwen3Rerank(reranker=LengthReranker(), top_n=9).compress_documents(documents, "q")
    assert [(d.id, d.metadata["place"]) for d in kept] == [("a", 0), (None, 1), ("a", 2), ("b", 3)]
    assert Qwen3Rerank(reranker=LengthReranker()).compress_documents([], "q") == []
