"""The MCP Inspector's command line, from npm, as a client that is not ours (`make inspector`)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from qwen3_rag import Document, Pipeline

BIN = ROOT / ".inspector/node_modules/.bin"
pytestmark = pytest.mark.skipif(
    not (ROOT / ".inspector/inspector.done").is_file(),
    reason="the MCP Inspector is not installed: run `make inspector`",
)


def inspected(store: Path, *arguments: str) -> Any:
    server = [sys.executable, "-c", "from qwen3_rag.cli import main; main()", "mcp", str(store)]
    command = [BIN / "mcp-inspector", "--cli", *server, *arguments]
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_foreign_client_lists_tools_and_gets_passages(tmp_path: Path, tiny_embedder: Path) -> None:
    with Pipeline.create(tmp_path / "store", str(tiny_embedder), None) as pipeline:
        pipeline.add([Document("The moon pulls the sea.", "docs/tides")])
    tools = inspected(tmp_path / "store", "--method", "tools/list")["tools"]
    assert {"query", "get", "search", "fetch"} <= {tool["name"] for tool in tools}
    call = ("--method", "tools/call", "--tool-name", "query", "--tool-arg", "question=moon", "--tool-arg", "limit=1")
    result = inspected(tmp_path / "store", *call)
    assert result["structuredContent"]["passages"][0]["document"] == "docs/tides"
