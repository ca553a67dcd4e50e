"""What `make dist` builds installs into an empty environment and holds what it must."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_holds_adapters_demo_data_and_types(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "qwen3_rag/py.typed",
        "qwen3_rag/data/demo/corpus.jsonl",
        "qwen3_rag/data/models/demo-reranker/README.md",
        "langchain_qwen3_rag/__init__.py",
        "langchain_qwen3_rag/py.typed",
        "llama_index_qwen3_rag/__init__.py",
        "llama_index_qwen3_rag/py.typed",
    ):
        assert name in names, name
    assert len(list(built.glob("*.tar.gz"))) == 1


def test_the_wheel_installs_into_an_empty_environment_and_runs(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    # Its dependencies are those of this environment, behind its own packages.
    code = "import site, sys; print(site.getsitepackages()[0])"
    own, ours = (subprocess.check_output([p, "-c", code], text=True).strip() for p in (str(python), sys.executable))
    (Path(own) / "dependencies.pth").write_text(ours)
    check = (
        "import qwen3_rag, langchain_qwen3_rag, llama_index_qwen3_rag, importlib.resources as r\n"
        "print(qwen3_rag.__file__, (r.files('qwen3_rag') / 'data/demo/corpus.jsonl').is_file())"
    )
    said = subprocess.check_output([str(python), "-c", check], text=True, cwd=tmp_path)
    assert said.strip() == f"{own}/qwen3_rag/__init__.py True"
    helped = subprocess.run(
        [str(tmp_path / "venv/bin/qwen3-rag"), "--help"], capture_output=True, text=True, cwd=tmp_path
    )
    assert helped.returncode == 0, helped.stderr
    assert "search" in helped.stdout
