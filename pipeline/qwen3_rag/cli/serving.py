"""Commands that serve a store to other programs."""

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from qwen3_rag.arguments import as_path
from qwen3_rag.cli.common import Store, TrustUrls, readable
from qwen3_rag.errors import MissingDependencyError

__all__ = ["mcp"]


@readable
def mcp(
    store: Store,
    allow_writes: Annotated[bool, typer.Option("--allow-writes", help="Let agents add and delete documents.")] = False,
    reranker: Annotated[
        str | None, typer.Option(help="Preset, folder, hub id, or 'none'. [default: the store's]")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the entry for an agent's settings.")
    ] = False,
    trust_urls: TrustUrls = False,
) -> None:
    """Make a store a tool of agents that speak the Model Context Protocol, over stdin and stdout.

    Example: qwen3-rag mcp my-store --print-config
    """
    if print_config:
        words = ["mcp", str(as_path(store, "STORE").resolve())]
        words += ["--allow-writes"] if allow_writes else []
        words += ["--trust-urls"] if trust_urls else []
        words += ["--reranker", reranker] if reranker is not None else []
        command = shutil.which("qwen3-rag") or str(Path(sys.argv[0]).resolve())
        typer.echo(json.dumps({"mcpServers": {"qwen3-rag": {"command": command, "args": words}}}, indent=2))
        return
    from qwen3_rag import Pipeline

    try:
        from qwen3_rag.mcp_server import server_of
    except ModuleNotFoundError as error:
        raise MissingDependencyError("mcp", "serving agents", "pip install 'qwen3-rag[mcp]'") from error
    with Pipeline.open(store, reranker=reranker, trust_urls=trust_urls) as pipeline:
        server_of(pipeline, allow_writes=allow_writes).run("stdio")
