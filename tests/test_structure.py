"""Imports point one way: none, even inside a function, leads to a higher layer, and there is no circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from conftest import ROOT

# From the lowest to the highest; a module belongs to the longest name that it starts with.
LAYERS = [
    ["errors"],
    ["arguments", "forking", "progress", "prompts", "resources"],
    ["descriptions", "excerpts", "records", "scores", "settings"],
    ["calibration"],
    ["models.checkpoints"],
    ["models.engine"],
    ["models.runtimes"],
    ["models", "index"],
    ["ingest", "ranking"],
    ["searching"],
    ["pipeline"],
    ["", "adapters", "evaluation", "presenting", "tools"],
    ["demo", "mcp_server", "server", "training"],
    ["cli"],
    ["langchain_qwen3_rag", "llama_index_qwen3_rag"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ROOTS = (ROOT / "pipeline", ROOT / "integrations")


def module_of(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path, root): path for root in ROOTS for path in sorted(root.rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """Modules of this project that a file imports, at its top or later."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & MODULES.keys()) or {node.module}
    return names & MODULES.keys()


GRAPH = {module: imports_of(path) for module, path in MODULES.items()}


def area_of(module: str) -> str:
    """The entry of LAYERS that a module belongs to."""
    name = module.removeprefix("qwen3_rag").removeprefix(".")
    while name and name not in LEVEL:
        name = name.rpartition(".")[0]
    assert name or module.count(".") == 0, f"{module} has no layer"
    return name


def test_every_module_has_a_layer_and_imports_no_higher_one() -> None:
    assert len(GRAPH) > 100
    upward = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if LEVEL[area_of(other)] > LEVEL[area_of(module)]
    ]
    assert not upward


def test_the_import_graph_has_no_circle() -> None:
    try:
        list(TopologicalSorter(GRAPH).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_areas_of_one_layer_do_not_import_each_other() -> None:
    """So `models` and `index` know nothing of each other, and neither do the two adapters."""
    across = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if LEVEL[area_of(other)] == LEVEL[area_of(module)] > LEVEL["calibration"] and area_of(other) != area_of(module)
    ]
    assert not across


def test_frameworks_are_imported_in_the_adapters_only() -> None:
    for module, path in MODULES.items():
        if not module.startswith(("langchain_", "llama_index_")):
            source = path.read_text("utf-8")
            assert "langchain_core" not in source, module
            assert "llama_index.core" not in source, module
