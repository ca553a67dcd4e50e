import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import qwen3_rag
from conftest import ROOT
from qwen3_rag import errors


def test_the_public_names_are_these_and_every_error() -> None:
    names = {"Cascade", "Document", "Embedder", "Hit", "IndexReport", "Pipeline", "Ranked", "RerankResult", "Reranker"}
    assert set(qwen3_rag.__all__) == names | {"Results"} | set(errors.__all__)
    assert qwen3_rag.__all__ == sorted(qwen3_rag.__all__)
    assert all(getattr(qwen3_rag, name).__doc__ for name in qwen3_rag.__all__)


def test_importing_takes_no_torch_and_under_a_second() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import qwen3_rag; took = time.perf_counter() - start\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'faiss'} & set(sys.modules); print(took, heavy)\n"
        "assert not heavy and took < 1, (took, heavy)\n"
        "import langchain_qwen3_rag, llama_index_qwen3_rag; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_types_are_shipped() -> None:
    for package in ("qwen3_rag", "langchain_qwen3_rag", "llama_index_qwen3_rag"):
        assert files(package).joinpath("py.typed").is_file()


def test_every_error_is_in_the_tree_that_the_docstring_draws() -> None:
    drawn = set(re.findall(r"\b(\w+Error)\b", errors.__doc__ or "")) - {
        "ValueError", "ImportError", "RuntimeError",
    }  # fmt: skip
    assert drawn == set(errors.__all__)
    assert all(issubclass(getattr(errors, name), errors.Qwen3RagError) for name in errors.__all__)


def test_no_pickle_and_no_remote_code() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        source = path.read_text("utf-8")
        assert not re.search(
            r"trust_remote_code\s*=\s*True|import pickle|torch\.load\(|\.bin\b.*from_pretrained", source
        ), path


def test_the_wheel_holds_the_demo_data_and_all_three_packages(tmp_path: Path) -> None:
    import zipfile

    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        "qwen3_rag/data/demo/corpus.jsonl",
        "qwen3_rag/data/models/demo-reranker/adapter_model.safetensors",
        "qwen3_rag/py.typed",
        "langchain_qwen3_rag/vector_store.py",
        "llama_index_qwen3_rag/vector_store.py",
    }
    assert expected <= names
