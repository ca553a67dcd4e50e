"""What happens to a store under a running server: each call answers or is an error, and the server lives on."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from mcp.client.client import Client

from fakes import LengthReranker, WordEmbedder
from qwen3_rag import Document, Pipeline
from qwen3_rag.mcp_server import server_of


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline.create(tmp_path / "store", WordEmbedder(), LengthReranker()) as pipeline:
        pipeline.add([Document(f"The moon, number {number}.", f"moon {number}") for number in range(50)])
        yield pipeline


async def said(client: Client, name: str = "query", **arguments: object) -> str:
    """What a call answers: its error, or "fine"."""
    wanted = {"question": "moon"} if name == "query" else {}
    result = await client.call_tool(name, wanted | arguments)
    return str(result.content) if result.is_error else "fine"


async def test_a_store_that_is_deleted_is_an_error_and_the_server_lives_on(pipeline: Pipeline) -> None:
    folder = pipeline.store.folder
    async with Client(server_of(pipeline)) as client:
        assert await said(client) == "fine"
        away = folder.with_name("away")
        folder.rename(away)
        assert "store" in await said(client)
        assert len((await client.list_tools()).tools) == 7
        away.rename(folder)
        assert await said(client) == "fine"


async def test_a_store_that_is_replaced_is_an_error_not_the_other_stores_answer(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    folder = pipeline.store.folder
    with Pipeline.create(tmp_path / "other", WordEmbedder(), LengthReranker()) as other:
        other.add([Document("Another moon.", "other")])
    async with Client(server_of(pipeline)) as client:
        shutil.move(folder, tmp_path / "away")
        shutil.move(tmp_path / "other", folder)
        answer = await said(client)
        assert "is not the store that was opened" in answer


async def test_calls_go_on_while_the_store_is_optimised_and_written(pipeline: Pipeline) -> None:
    async with Client(server_of(pipeline)) as client, anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, pipeline.optimize)
        answers = [await said(client) for _ in range(10)]
        pipeline.delete([f"moon {number}" for number in range(40)])
        answers.append(await said(client))
        assert set(answers) == {"fine"}


async def test_two_servers_share_a_store_and_see_each_others_writes(pipeline: Pipeline) -> None:
    with Pipeline.open(pipeline.store.folder, WordEmbedder(), LengthReranker()) as second:
        async with (
            Client(server_of(pipeline, allow_writes=True)) as one,
            Client(server_of(second, allow_writes=True)) as other,
        ):
            async with anyio.create_task_group() as group:
                for number in range(5):
                    for client, name in ((one, "one"), (other, "other")):
                        group.start_soon(lambda c, i: said(c, "add", text=f"by {i}", id=i), client, f"{name} {number}")
            for client in (one, other):
                listed = await client.call_tool("list", {"prefix": "o"})
                assert len((listed.structured_content or {})["documents"]) == 10


async def test_arguments_of_any_size_are_answered_or_refused(pipeline: Pipeline) -> None:
    async with Client(server_of(pipeline, allow_writes=True)) as client:
        assert await said(client, question="moon " * 20_000) == "fine"
        assert "expected at most" in await said(client, "multi_get", ids=[str(i) for i in range(5000)])
        nested: dict[str, object] = {"year": 1}
        for _ in range(60):
            nested = {"$not": nested}
        assert "nested deeper than 40 levels" in await said(client, filter=nested)
        assert await said(client) == "fine"
