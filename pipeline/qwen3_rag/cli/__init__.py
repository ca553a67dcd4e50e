"""The command line, `qwen3-rag`."""

from qwen3_rag.cli.application import app, main

__all__ = ["app", "main"]
