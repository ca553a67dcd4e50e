"""The benchmark's peers score what the package scores: otherwise their seconds would compare different work."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from qwen3_rag import Embedder, Reranker

PEERS = Path(__file__).parents[1] / "benchmarks/peers"
QUERY = "Which river runs through Vienna?"
DOCUMENTS = ["The Danube runs through Vienna.", "维也纳位于多瑙河畔。", "Gravity pulls bodies. " * 30, "a", "نهر 🌊"]
INSTRUCTION = "Given a question about a river, retrieve passages that name it"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    file = tmp_path / "job.json"
    file.write_text(json.dumps({"query": QUERY, "documents": DOCUMENTS, "instruction": INSTRUCTION}))
    return file


def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, *arguments: object
) -> dict[str, object]:
    threads = ["--threads", str(torch.get_num_threads())]
    monkeypatch.syspath_prepend(str(PEERS))
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), *threads])
    runpy.run_path(str(PEERS / f"{name}.py"), run_name="__main__")
    report: dict[str, object] = json.loads(capfd.readouterr().out.splitlines()[-1])
    return report


@pytest.mark.filterwarnings("ignore")  # OpenVINO traces the model, which warns
@pytest.mark.parametrize(
    ("name", "settings", "package", "within"),
    [
        ("native_rerank", ["--dtype", "float32", "--no-compile"], "transformers", 1e-4),
        ("official_rerank", ["--dtype", "float32", "--batch-size", "2"], "transformers", 1e-4),
        ("official_rerank", ["--dtype", "float32", "--in-order", "--last-logits"], "transformers", 1e-4),
        ("sentence_transformers_rerank", ["--dtype", "float32", "--batch-size", "2"], "sentence_transformers", 1e-4),
        ("openvino_rerank", ["--precision", "f32", "--batch-size", "2"], "openvino", 1e-3),
        ("llama_cpp_rerank", ["--weights", "f32"], "xllamacpp", 0.1),  # keeps keys and values in float16
    ],
)
def test_a_peer_gives_the_official_scores(
    name: str,
    settings: list[str],
    package: str,
    within: float,
    tiny_reranker: Path,
    job: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(package, reason=f"the peer's package {package} is not installed here")
    report = run(monkeypatch, capfd, name, tiny_reranker, job, *settings)
    expected = Reranker(str(tiny_reranker), dtype="float32", runtime="transformers", instruction=INSTRUCTION)
    np.testing.assert_allclose(report["log_odds"], expected.log_odds(QUERY, DOCUMENTS), atol=within)
    assert 0 < float(str(report["seconds"])) < 60
    assert isinstance(report["settings"], dict)
    assert report["settings"].get("batch_size", 8) in (2, 8)


def test_the_embedding_peer_gives_our_vectors(
    tiny_reranker: Path,
    job: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    saved = tmp_path / "vectors.npy"
    run(monkeypatch, capfd, "sentence_transformers_embed", tiny_reranker, job, "--dtype", "float32", "--vectors", saved)
    expected = Embedder(str(tiny_reranker), dtype="float32", runtime="transformers").encode_document(DOCUMENTS)
    np.testing.assert_allclose(np.load(saved), expected, atol=1e-4)
