"""Every FAISS call made on a GPU, checked against the faiss-gpu wheel itself: names and signatures.

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
def bindings(tmp_path_factory: pytest.TempPathFactory) -> ast.Module:
    path = Path(str(WHEEL))
    if WHEEL == "fetch":
        folder = tmp_path_factory.mktemp("wheel")
        fetch = ["download", "--no-deps", "--only-binary=:all:", "-d", str(folder), "faiss-gpu==1.15.1"]
        subprocess.run([sys.executable, "-m", "pip", *fetch], check=True, capture_output=True)
        (path,) = folder.glob("*.whl")
    return ast.parse(zipfile.ZipFile(path).read("faiss/swigfaiss.py"))


def arguments(node: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in node.args.args]


def function(module: ast.Module, name: str) -> list[str]:
    return next(arguments(n) for n in module.body if isinstance(n, ast.FunctionDef) and n.name == name)


def method(module: ast.Module, cls: str, name: str) -> list[str]:
    found = next(n for n in module.body if isinstance(n, ast.ClassDef) and n.name == cls)
    return next(arguments(n) for n in found.body if isinstance(n, ast.FunctionDef) and n.name == name)


def test_the_gpu_calls_exist_with_the_arguments_we_give(bindings: ast.Module) -> None:
    assert function(bindings, "get_num_gpus") == []
    assert function(bindings, "index_cpu_to_gpu")[:3] == ["provider", "device", "index"]
    assert method(bindings, "StandardGpuResources", "__init__") == ["self"]
    assert method(bindings, "StandardGpuResources", "setTempMemory") == ["self", "size"]


def test_the_wheel_converts_a_flat_index(bindings: ast.Module) -> None:
    assert method(bindings, "GpuIndexFlat", "__init__")
    assert any(isinstance(n, ast.ClassDef) and n.name == "GpuIndexFlatIP" for n in bindings.body)
