"""vLLM in a separate environment (`make peers`), in process and as a server: native scores, and text stays text."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ROOT, save_model
from qwen3_rag import Embedder, Reranker
from qwen3_rag.errors import InvalidArgumentError, MissingDependencyError, ModelError
from qwen3_rag.models.verification import PAIRS
from qwen3_rag.training.models import Lora, TrainedReranker

PYTHON = ROOT / ".peers/bin/python"
peers = pytest.mark.skipif(
    not (ROOT / ".peers/peers.done").is_file(), reason="vLLM is not installed: run `make peers` first"
)
CLASSIFY = ["--convert", "classify", "--hf-overrides"]
OVERRIDES = '{"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax", "num_labels": 1}'
KEY = "sesame-7"
CONTROL = [i for i, pair in enumerate(PAIRS) if "<|im_end|>" in "".join(pair)]
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def environment() -> dict[str, str]:
    # This checkout's packages, in addition to the environment's.
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT / "pipeline")}


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process and everything in its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(15)
            time.sleep(1)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def wait_until_healthy(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"vLLM did not start:\n{log.read_text('utf-8', 'replace')[-3000:]}")


@contextmanager
def serving(folder: Path, log: Path, *arguments: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--runner", "pooling"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "1024"]
    command += ["--enforce-eager", "--max-num-seqs", "64", *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(map(str, command)), stdout=out, stderr=out, env=environment(), start_new_session=True
        )
        try:
            wait_until_healthy(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(process)


@pytest.fixture(scope="module")
def demo() -> Path:
    pytest.importorskip("gguf", reason="the demo reranker is not installed: make demo")
    from qwen3_rag.models.checkpoints.demo import demo_reranker

    try:
        return demo_reranker()
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def expected(demo: Path) -> np.ndarray:
    return Reranker(str(demo), dtype="float32", max_length=1024).predict(PAIRS)


@pytest.fixture(scope="module")
def rerank_url(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "rerank.log"
    with serving(demo, log, *CLASSIFY, OVERRIDES, "--api-key", KEY) as url:
        yield url


@pytest.fixture(scope="module")
def embedder_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Path:
    return save_model(tmp_path_factory.mktemp("embedder"), "embedding", tokenizer=tokenizer_json, head_dim=32)


@pytest.fixture(scope="module")
def embed_url(embedder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "embed.log"
    with serving(embedder_folder, log, "--convert", "embed") as url:
        yield url


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_RAG_API_KEY", KEY)


def elsewhere(url: str, **options: Any) -> Reranker:
    """The server's model under a name whose tokenizer is not on this machine."""
    return Reranker("nobody/has-this", runtime=url, max_length=1024, runtime_options=options)


@peers
@pytest.mark.usefixtures("key")
def test_a_server_gives_the_native_log_odds_of_every_pair(rerank_url: str, demo: Path, expected: np.ndarray) -> None:
    reranker = Reranker(str(demo), runtime=f"{rerank_url}/v1/", max_length=1024)
    results = reranker.predict(PAIRS)
    assert reranker.runs_on["input"] == "/classify: token ids"
    print(f"\nvLLM server, ids, against native: {np.abs(results - expected).max():.1e}")
    np.testing.assert_allclose(results, expected, atol=1e-3)
    np.testing.assert_allclose(reranker.log_odds(*_one_query()), _native(demo), atol=1e-3)
    result = reranker.read("What is the capital of China?", ["word " * 2000, "Beijing"])
    assert result.truncated == 1


def _one_query() -> tuple[str, list[str]]:
    return PAIRS[0][0], [document for _, document in PAIRS]


def _native(folder: Path) -> np.ndarray:
    return Reranker(str(folder), dtype="float32", max_length=1024).log_odds(*_one_query())


@peers
@pytest.mark.usefixtures("key")
def test_without_the_tokenizer_whole_templates_are_sent_and_text_stays_text(
    rerank_url: str, expected: np.ndarray
) -> None:
    reranker = elsewhere(rerank_url)
    results = reranker.predict(PAIRS)
    assert reranker.runs_on["input"] == "/v1/score: the whole template in the texts"
    assert reranker.runs_on["scores"] == "log-odds"
    assert reranker.loaded.chosen.exact
    differences = np.abs(results - expected)
    ordinary = [i for i in range(len(PAIRS)) if i not in CONTROL]
    assert differences[ordinary].max() < 1e-3
    assert differences.max() < 0.5, "a space inside each spelled-out control token changes a score slightly"
    with pytest.raises(ModelError, match=r"maximum context length|1024"):
        reranker.log_odds("q", ["word " * 3000])


@peers
@pytest.mark.usefixtures("key")
def test_the_rerank_endpoint_gives_the_same_scores(rerank_url: str, expected: np.ndarray) -> None:
    reranker = elsewhere(rerank_url, endpoint="rerank")
    assert abs(float(reranker.log_odds(*PAIRS[0][:1], [PAIRS[0][1]])[0]) - expected[0]) < 1e-3
    assert reranker.runs_on["input"] == "/v1/rerank: the whole template in the texts"


@peers
def test_a_server_started_with_a_key_requires_it(rerank_url: str, demo: Path) -> None:
    with pytest.raises(ModelError, match="QWEN3_RAG_API_KEY, which is not set"):
        Reranker(str(demo), runtime=rerank_url).log_odds("q", ["d"])


@peers
def test_a_server_gives_the_native_embeddings(embed_url: str, embedder_folder: Path) -> None:
    texts = [document for _, document in PAIRS]
    native = Embedder(str(embedder_folder), dtype="float32", max_length=1024, dimensions=40)
    # A random model does not rank the fixed pairs right.
    served = Embedder(
        str(embedder_folder), runtime=embed_url, max_length=1024, dimensions=40, runtime_options={"probe": False}
    )
    np.testing.assert_allclose(served.encode_document(texts), native.encode_document(texts), atol=1e-4)
    np.testing.assert_allclose(served.encode_query("a query"), native.encode_query("a query"), atol=1e-4)
    assert served.runs_on["input"] == "/v1/embeddings: token ids"
    with pytest.raises(InvalidArgumentError, match="at most max_length=1024"):
        served.encode_query("word " * 3000)


@peers
def test_spans_come_from_the_servers_tokenizer(embed_url: str, embedder_folder: Path) -> None:
    native = Embedder(str(embedder_folder), dtype="float32", max_length=1024)
    served = Embedder("nobody/has-this", runtime=embed_url, runtime_options={"probe": False})
    for text in ("The tides, and the moon.", "潮汐 and 🎉", ""):
        np.testing.assert_array_equal(served.spans(text), native.spans(text))


@peers
def test_wrongly_started_servers_are_errors(embed_url: str, embedder_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"compares embeddings; expected a reranker.*--convert classify"):
        elsewhere(embed_url).log_odds("q", ["d"])
    with pytest.raises(ModelError, match=r"fixed queries wrong, such as .*--convert embed"):
        Embedder(str(embedder_folder), runtime=embed_url).encode_query("q")


def merged(base: Path, out: Path) -> Path:
    """A base with an adapter of random weights added, as fine-tuning leaves it."""
    trained = TrainedReranker(base, Lora(4), "cpu", "float32", 1)
    for name, weights in trained.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.05)
    trained.save(out)
    return out / "merged"


@pytest.fixture(scope="module")
def in_process(
    embedder_folder: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("in-process")
    job: dict[str, Any] = {"pairs": PAIRS, "out": str(folder / "out.json"), "embedder": str(embedder_folder)}
    for kind in ("causal", "classifier"):
        job[kind] = str(save_model(folder / kind, kind, spread=2.0, tokenizer=tokenizer_json, head_dim=32))
    job["merged"] = str(merged(Path(job["causal"]), folder / "tuned"))
    (folder / "job.json").write_text(json.dumps(job), "utf-8")
    log = folder / "log"
    with log.open("wb") as out:
        script = Path(__file__).with_name("vllm_in_process.py")
        process = subprocess.Popen(
            [PYTHON, script, folder / "job.json"], stdout=out, stderr=out, env=environment(), start_new_session=True
        )
        try:
            assert process.wait(240) == 0, log.read_text("utf-8", "replace")[-3000:]
        finally:
            stop(process)
    return job, json.loads(Path(job["out"]).read_text("utf-8"))


@peers
@pytest.mark.parametrize("kind", ["causal", "classifier", "merged"])
def test_in_process_the_log_odds_are_the_native_ones(in_process: tuple[Any, Any], kind: str) -> None:
    job, results = in_process
    native = Reranker(job[kind], dtype="float32", max_length=400)
    scored = list(native.loaded.score("web search", [(query, [document]) for query, document in PAIRS]))
    log_odds = np.concatenate([part.log_odds for part in scored])[np.argsort([i for p in scored for i in p.indices])]
    truncated = sum(part.truncated for part in scored)
    print(f"\nvLLM in process, {kind}: {np.abs(np.array(results[kind]) - log_odds).max():.1e}")
    assert log_odds.std() > 0.5
    np.testing.assert_allclose(results[kind], log_odds, atol=1e-3)
    assert truncated > 0
    runs_on = {"device": "cpu", "dtype": "float32", "attention": "vllm"}
    assert results[f"{kind} more"] == [truncated, len(PAIRS), runs_on]
    assert results[f"{kind} cancelled"] == ["cancelled", 0]


@peers
def test_in_process_merged_weights_score_other_than_their_base(in_process: tuple[Any, Any]) -> None:
    results = in_process[1]
    assert np.abs(np.subtract(results["merged"], results["causal"])).max() > 0.1


@peers
def test_in_process_the_embeddings_are_the_native_ones(in_process: tuple[Any, Any]) -> None:
    job, results = in_process
    native = Embedder(job["embedder"], dtype="float32", dimensions=48, max_length=400)
    np.testing.assert_allclose(results["documents"], native.encode_document([d for _, d in PAIRS]), atol=1e-4)
    np.testing.assert_allclose(results["queries"], native.encode_query([q for q, _ in PAIRS]), atol=1e-4)
    assert results["spans"] == native.spans("a text 中文").tolist()


@peers
def test_in_process_wrong_options_are_errors(in_process: tuple[Any, Any]) -> None:
    _, results = in_process
    assert "unknown option of runtime 'vllm' 'tensor_paralel_size'; expected one of:" in results["unknown option"]
    assert "tensor_parallel_size" in results["unknown option"]
    assert "runtime_options sets trust_remote_code=True; expected none of model" in results["own option"]


def test_without_vllm_the_error_names_the_command(tiny_reranker: Path) -> None:
    pytest.importorskip("transformers")
    reranker = Reranker(str(tiny_reranker), runtime="vllm")
    assert reranker.runs_on["attention"] == "vllm"
    with pytest.raises(MissingDependencyError, match=r"pip install 'vllm>=0.32'.*in a separate virtual environment"):
        reranker.log_odds("q", ["d"])
