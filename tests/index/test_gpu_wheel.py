"""Names and signatures of every FAISS GPU call, checked against the faiss-gpu wheel itself.

Needs no GPU. Runs with `QWEN3_RAG_GPU_WHEEL=fetch` (135 MB from the package registry) or the path of a wheel.
"""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

WHEEL = os.environ.get("QWEN3_RAG_GPU_WHEEL")
pytestmark = pytest.mark.skipif(not WHEEL, reason="set QWEN3_RAG_GPU_WHEEL=fetch or to a faiss-gpu wheel's path")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    path = Path(str(WHEEL))
    if WHEEL == "fetch":
        folder = tmp_path_factory.mktemp("wheel")
        fetch = ["download", "--no-deps", "--only-binary=:all:", "-d", str(folder), "faiss-gpu==1.15.1"]
        subprocess.run([sys.executable, "-m", "pip", *fetch], check=True, capture_output=True)
        (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def bindings(wheel: zipfile.ZipFile) -> ast.Module:
    return ast.parse(wheel.read("faiss/swigfaiss.py"))


@pytest.fixture(scope="module")
def wrappers(wheel: zipfile.ZipFile) -> ast.Module:
    return ast.parse(wheel.read("faiss/class_wrappers.py"))


@pytest.fixture(scope="module")
def gpu_wrappers(wheel: zipfile.ZipFile) -> ast.Module:
    return ast.parse(wheel.read("faiss/gpu_wrappers.py"))


def arguments(node: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in node.args.args]


def function(module: ast.Module, name: str) -> list[str]:
    return next(arguments(n) for n in module.body if isinstance(n, ast.FunctionDef) and n.name == name)


def method(module: ast.Module, cls: str, name: str) -> list[str]:
    definition = next(n for n in module.body if isinstance(n, ast.ClassDef) and n.name == cls)
    return next(arguments(n) for n in definition.body if isinstance(n, ast.FunctionDef) and n.name == name)


def members(module: ast.Module, name: str) -> set[str]:
    """Attribute and method names of a class of the bindings, including those of its base classes."""
    definition = next(n for n in module.body if isinstance(n, ast.ClassDef) and n.name == name)
    names = {
        target.id
        for n in definition.body
        if isinstance(n, ast.Assign)
        for target in n.targets
        if isinstance(target, ast.Name)
    }
    names |= {n.name for n in definition.body if isinstance(n, ast.FunctionDef)}
    bases = [base.id for base in definition.bases if isinstance(base, ast.Name) and base.id != "object"]
    return names.union(*(members(module, base) for base in bases))


def test_the_gpu_calls_exist_with_the_arguments_that_the_package_passes(bindings: ast.Module) -> None:
    assert function(bindings, "get_num_gpus") == []
    assert method(bindings, "StandardGpuResources", "__init__") == ["self"]
    assert method(bindings, "StandardGpuResources", "setTempMemory") == ["self", "size"]
    assert {"useFloat16", "device"} <= members(bindings, "GpuIndexFlatConfig")
    assert {"add", "search", "ntotal"} <= members(bindings, "GpuIndexFlatIP")
    assert {"shard", "indicesOptions"} <= members(bindings, "GpuMultipleClonerOptions")
    assert {"nprobe"} <= members(bindings, "SearchParametersIVF")
    assert any(isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "INDICES_64_BIT" for n in bindings.body)
    assert function(bindings, "index_cpu_to_gpu_multiple")[:4] == ["provider", "devices", "index", "options"]


def test_a_flat_gpu_index_takes_resources_dimensions_and_configuration(bindings: ast.Module) -> None:
    definition = next(n for n in bindings.body if isinstance(n, ast.ClassDef) and n.name == "GpuIndexFlatIP")
    init = next(n for n in definition.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    assert "new_GpuIndexFlatIP(*args)" in ast.unparse(init)
    assert "INDICES_64_BIT" in ast.unparse(bindings)


def test_search_on_a_gpu_takes_search_parameters(wrappers: ast.Module, gpu_wrappers: ast.Module) -> None:
    assert function(gpu_wrappers, "index_cpu_to_gpu_multiple_py") == ["resources", "index", "co", "gpus"]
    wrapper = next(n for n in wrappers.body if isinstance(n, ast.FunctionDef) and n.name == "handle_Index")
    search = next(n for n in wrapper.body if isinstance(n, ast.FunctionDef) and n.name == "replacement_search")
    assert [a.arg for a in [*search.args.args, *search.args.kwonlyargs]][:4] == ["self", "x", "k", "params"]
