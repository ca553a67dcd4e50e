"""Commands that serve a store to other programs."""

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from qwen3_rag.arguments import as_path
from qwen3_rag.cli.common import Store, TrustUrls, readable
from qwen3_rag.errors import InvalidArgumentError, MissingDependencyError

__all__ = ["mcp", "serve"]


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


@readable
def serve(
    store: Annotated[Path | None, typer.Option("--store", help="A store to serve, with its models.")] = None,
    embedder: Annotated[
        str | None, typer.Option(help="Preset, folder or hub id of an embedder. [default: the store's]")
    ] = None,
    reranker: Annotated[
        str | None, typer.Option(help="Preset, folder or hub id of a reranker, or 'none'. [default: the store's]")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; others than loopback need a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    key_file: Annotated[
        Path | None, typer.Option(help="Keys of callers, one a line; or set QWEN3_RAG_SERVER_KEYS.")
    ] = None,
    allow_writes: Annotated[bool, typer.Option("--allow-writes", help="Let callers add and delete documents.")] = False,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Let web pages of this origin call; may be repeated.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Answer to this name; may be repeated. [default: this machine's]")
    ] = None,
    embedder_name: Annotated[str | None, typer.Option(help="The embedder's name in requests.")] = None,
    reranker_name: Annotated[str | None, typer.Option(help="The reranker's name in requests.")] = None,
    device: Annotated[str, typer.Option(help="Device of --embedder and --reranker.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Number type of --embedder and --reranker.")] = "auto",
    runtime: Annotated[str, typer.Option(help="Runtime of --embedder and --reranker.")] = "native",
    max_length: Annotated[int, typer.Option(help="Most tokens of an input of --embedder and --reranker.")] = 8192,
    max_body: Annotated[int, typer.Option(help="Most bytes of a request.")] = 16 * 2**20,
    max_texts: Annotated[int, typer.Option(help="Most texts of a request.")] = 2048,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a request's texts.")] = 2**20,
    max_queue: Annotated[int, typer.Option(help="Most requests at once; more get 429.")] = 256,
    body_seconds: Annotated[float, typer.Option(help="Longest time to send a request.")] = 30.0,
    send_seconds: Annotated[float, typer.Option(help="Longest time to take nothing of a response.")] = 60.0,
    drain_seconds: Annotated[float, typer.Option(help="Longest time to finish requests at the end.")] = 30.0,
    deadline: Annotated[float | None, typer.Option(help="Seconds after which a request stops.")] = None,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="Ignore unknown fields instead of refusing them.")
    ] = False,
    compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Compile the models before they are ready.")
    ] = True,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")] = False,
    trust_urls: TrustUrls = False,
) -> None:
    """Serve models and a store over HTTP, to the clients of Cohere, Jina, TEI, vLLM and OpenAI.

    Example: qwen3-rag serve --embedder 0.6b --reranker 0.6b --port 8000
    """
    try:
        from qwen3_rag.server.running import JsonLines, run
        from qwen3_rag.server.service import Service
        from qwen3_rag.server.settings import Keys, ServerSettings
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "", "serving", "pip install 'qwen3-rag[server]'") from error
    from qwen3_rag import Embedder, Pipeline
    from qwen3_rag.models.cascade import named_reranker
    from qwen3_rag.models.engine.compute import use_one_thread

    use_one_thread()
    if log_json:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonLines())
    settings = ServerSettings(
        host=host,
        port=port,
        keys=Keys.read(key_file),
        allow_writes=allow_writes,
        allow_origins=tuple(allow_origin or ()),
        allow_hosts=tuple(allow_host or ()),
        max_body=max_body,
        max_texts=max_texts,
        max_tokens=max_tokens,
        max_queue=max_queue,
        body_seconds=body_seconds,
        send_seconds=send_seconds,
        drain_seconds=drain_seconds,
        deadline=deadline,
        ignore_unknown=ignore_unknown,
        compile=compile,
    )
    arguments: dict[str, Any] = {"device": device, "dtype": dtype, "runtime": runtime, "max_length": max_length}
    first = None if embedder is None else Embedder(embedder, **arguments)
    second = None if reranker in (None, "none") else named_reranker(reranker, **_changed(arguments))
    if changed := _changed(arguments) if first is None and second is None else {}:
        raise InvalidArgumentError(
            f"{', '.join(f'--{name}' for name in changed)} passed without --embedder and --reranker; expected one of "
            "them, because the models of a store keep their own"
        )
    if store is None:
        run(Service(settings, first, second, None, embedder_name, reranker_name))
        return
    with Pipeline.open(store, first, "none" if reranker == "none" else second, trust_urls=trust_urls) as pipeline:
        run(Service(settings, None, None, pipeline, embedder_name, reranker_name))


def _changed(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments that are not the default, because a preset cascade takes only some."""
    default = {"device": "auto", "dtype": "auto", "runtime": "native", "max_length": 8192}
    return {name: value for name, value in arguments.items() if value != default[name]}
