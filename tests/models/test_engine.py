"""The native engine gives the same scores compiled or not, in 8 or 32 bits, and for one caller or many."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT, save_model
from qwen3_rag import Embedder, Reranker
from qwen3_rag.errors import InvalidArgumentError, ModelError, UnknownNameError
from qwen3_rag.models.engine import compiling
from qwen3_rag.models.engine.layers import LastTokens
from qwen3_rag.models.engine.packing import Layout

TEXTS = [json.loads(line)["text"] for line in (ROOT / "data/demo/corpus.jsonl").read_text("utf-8").splitlines()]
QUERIES = [json.loads(line)["text"] for line in (ROOT / "data/demo/queries.jsonl").read_text("utf-8").splitlines()]
needs_compiler = pytest.mark.skipif(
    not compiling.can_compile(torch.device("cpu")), reason="needs a C++ compiler, by which torch.compile makes CPU code"
)


@pytest.fixture(scope="module")
def eager(tiny_reranker: Path) -> Reranker:
    return Reranker(str(tiny_reranker), dtype="float32", runtime_options={"compile": False})


@pytest.fixture(scope="module")
def compiled(tiny_reranker: Path) -> Reranker:
    return Reranker(str(tiny_reranker), dtype="float32", runtime_options={"compile": True, "token_budget": 700})


@needs_compiler
def test_compiled_scores_are_the_same_and_no_length_compiles_again(eager: Reranker, compiled: Reranker) -> None:
    assert compiled.loaded.runs_on["compiled"] == "yes"
    with torch._dynamo.config.patch(error_on_recompile=True):
        for query, documents in (
            (QUERIES[0], TEXTS[:30]),
            (QUERIES[1] * 9, TEXTS[30:60]),
            ("q", ["a"]),
            ("q", ["", "b"]),
            ("long", ["\n".join(TEXTS[:40]), *TEXTS[:3]]),
        ):
            expected = eager.log_odds(query, documents)
            np.testing.assert_allclose(compiled.log_odds(query, documents), expected, atol=1e-4, rtol=0)
        compiled.predict([(query, TEXTS[i]) for i, query in enumerate(QUERIES[:20])])


@needs_compiler
def test_an_embedder_of_another_shape_is_compiled_beside_it(tmp_path: Path, tokenizer_json: str) -> None:
    folder = save_model(tmp_path, "embedding", tokenizer=tokenizer_json, layers=2)
    plain = Embedder(str(folder), dtype="float32", runtime_options={"compile": False}).encode_document(TEXTS[:20])
    compiled_model = Embedder(str(folder), dtype="float32", runtime_options={"compile": True})
    compiled_model.loaded.embed_documents(["x"])
    with torch._dynamo.config.patch(error_on_recompile=True):
        for texts in (TEXTS[:20], [""], ["a", ""]):
            compiled_model.encode_document(texts)
        np.testing.assert_allclose(compiled_model.encode_document(TEXTS[:20]), plain, atol=1e-5)


@needs_compiler
def test_auto_compiles_after_enough_work_but_not_in_a_call_with_a_deadline(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = Reranker(str(tiny_reranker), dtype="float32", runtime_options={"token_budget": 300})
    before = reranker.log_odds("q", TEXTS[:8])
    assert reranker.runs_on["compiled"] == "no"
    monkeypatch.setattr(compiling, "COMPILE_AFTER", 0.0)
    reranker.read("q", TEXTS[:8], deadline=60)
    assert reranker.runs_on["compiled"] == "no"
    np.testing.assert_allclose(reranker.log_odds("q", TEXTS[:8]), before, atol=1e-4)
    assert reranker.runs_on["compiled"] == "yes"


def test_a_compiler_that_fails_costs_speed_only(
    tiny_reranker: Path, eager: Reranker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(compiling, "can_compile", lambda _: True)
    monkeypatch.setattr(compiling, "compile_layers", broken)
    monkeypatch.setattr(compiling, "COMPILE_AFTER", -1.0)
    with caplog.at_level(logging.WARNING, "qwen3_rag"):
        scores = Reranker(str(tiny_reranker), dtype="float32").log_odds("q", TEXTS[:5])
    assert "not compiled" in caplog.text
    assert "no such instruction" in caplog.text
    np.testing.assert_allclose(scores, eager.log_odds("q", TEXTS[:5]), atol=1e-4)
    with pytest.raises(ModelError, match=r"cannot be compiled here.*no such instruction"):
        Reranker(str(tiny_reranker), dtype="float32", runtime_options={"compile": True}).log_odds("q", ["a"])


def test_without_a_compiler_it_works_uncompiled(tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiling, "COMPILE_AFTER", -1.0)
    reranker = Reranker(str(tiny_reranker), dtype="float32")
    assert np.isfinite(reranker.log_odds("q", TEXTS[:3])).all()
    assert reranker.runs_on["compiled"] == "no"


def test_the_last_layer_computes_only_the_last_tokens(eager: Reranker) -> None:
    rows: list[int] = []
    body = eager.loaded.engine.runner.body
    assert isinstance(body.layers[-1], LastTokens)
    inner = body.layers[-1].layer
    modules = (inner.mlp, inner.self_attn.q_proj, body.layers[0].mlp)
    hooks = [m.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1])) for m in modules]
    try:
        eager.log_odds("q", TEXTS[:6])
    finally:
        for hook in hooks:
            hook.remove()
    assert rows[0] > 300, "the first layer computes every token"
    assert rows[1:] == [6, 6]


def test_16_callers_at_once_get_the_serial_results(eager: Reranker) -> None:
    jobs = [(QUERIES[i], TEXTS[i : i + 12]) for i in range(16)]
    serial = [eager.log_odds(*job) for job in jobs]
    with ThreadPoolExecutor(16) as pool:
        scores = list(pool.map(lambda job: eager.log_odds(*job), jobs))
    for a, b in zip(scores, serial, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=0)


async def test_async_callers_share_the_queue_and_a_cancelled_task_leaves_it(eager: Reranker) -> None:
    serial = eager.log_odds(QUERIES[0], TEXTS[:20])
    tasks = [asyncio.create_task(eager.aread(QUERIES[0], TEXTS[:20])) for _ in range(16)]
    doomed = asyncio.create_task(eager.aread("doomed", TEXTS * 20))
    await asyncio.sleep(0.05)
    doomed.cancel()
    for result in await asyncio.gather(*tasks):
        np.testing.assert_allclose(result.log_odds, serial, atol=1e-4, rtol=0)
    with pytest.raises(asyncio.CancelledError):
        await doomed
    for _ in range(100):
        if len(eager.loaded.engine.scheduler) == 0:
            break
        await asyncio.sleep(0.05)
    assert len(eager.loaded.engine.scheduler) == 0


def test_queries_of_one_call_share_batches_and_free_their_prefix_caches(tiny_reranker: Path, eager: Reranker) -> None:
    reranker = Reranker(str(tiny_reranker), dtype="float32", runtime_options={"compile": False, "token_budget": 4000})
    runner = reranker.loaded.engine.runner
    run, layouts = runner.run, []
    runner.run = lambda layout, may_compile: (layouts.append(layout), run(layout))[1]
    pairs = [(query, text) for query in QUERIES[:6] for text in TEXTS[:3]]
    scores = reranker.predict(pairs)
    assert len([layout for layout in layouts if layout.results]) <= 2
    prefixes = [s.computes for layout in layouts for s in layout.sequences if s.computes and not s.computes.kept]
    assert len(prefixes) == 6
    assert not any(prefix.keys_values for prefix in prefixes)
    expected = np.concatenate([eager.log_odds(query, TEXTS[:3]) for query in QUERIES[:6]])
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)


def test_cancelling_keeps_the_scores_of_the_best_candidates(tiny_reranker: Path) -> None:
    reranker = Reranker(str(tiny_reranker), dtype="float32", runtime_options={"token_budget": 400})
    cancel = threading.Event()
    scheduler = reranker.loaded.engine.scheduler
    run = scheduler._run

    def counted(pieces: list[object]) -> object:
        scores = run(pieces)  # type: ignore[arg-type]
        cancel.set()
        return scores

    scheduler._run = counted  # type: ignore[assignment]
    result = reranker.read("q", TEXTS[:200], cancel=cancel)
    assert result.stopped == "cancelled"
    assert 0 < result.read.sum() < 64
    assert set(np.flatnonzero(result.read)) <= set(range(64)), "the first window is read first"


def test_running_out_of_gpu_memory_halves_the_budget(
    tiny_reranker: Path, eager: Reranker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reranker = Reranker(str(tiny_reranker), dtype="float32", runtime_options={"compile": False, "token_budget": 4000})
    runner = reranker.loaded.engine.runner
    run, batches = runner.run, []

    def full(layout: Layout, may_compile: bool) -> np.ndarray:
        if layout.results:
            batches.append(layout.starts[-1])
        if layout.starts[-1] > 1200:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(layout)

    monkeypatch.setattr(runner, "run", full)
    with caplog.at_level(logging.WARNING, "qwen3_rag"):
        scores = reranker.log_odds("q", TEXTS[:50])
    assert "out of memory on the GPU: going on with 2000 tokens a batch instead of 4000" in caplog.text
    assert max(batches[:1]) > 2000 >= max(batches[2:])
    np.testing.assert_allclose(scores, eager.log_odds("q", TEXTS[:50]), atol=1e-4)


def test_int8_ranks_as_float32_does(tiny_reranker: Path, eager: Reranker) -> None:
    quantised = Reranker(str(tiny_reranker), dtype="int8", runtime_options={"compile": False})
    scores, expected = quantised.log_odds(QUERIES[0], TEXTS[:60]), eager.log_odds(QUERIES[0], TEXTS[:60])
    assert quantised.runs_on["dtype"] == "int8"
    assert np.corrcoef(scores, expected)[0, 1] > 0.98
    assert not np.array_equal(scores, Reranker(str(tiny_reranker)).log_odds(QUERIES[0], TEXTS[:60])), (
        "int8 is actually used"
    )


@needs_compiler
def test_int8_compiled_is_int8(tiny_reranker: Path) -> None:
    plain = Reranker(str(tiny_reranker), dtype="int8", runtime_options={"compile": False})
    compiled_model = Reranker(str(tiny_reranker), dtype="int8", runtime_options={"compile": True})
    scores, expected = compiled_model.log_odds(QUERIES[0], TEXTS[:60]), plain.log_odds(QUERIES[0], TEXTS[:60])
    assert np.corrcoef(scores, expected)[0, 1] > 0.99


def test_int8_elsewhere_is_an_error(tiny_reranker: Path) -> None:
    with pytest.raises(UnknownNameError, match="int8 is for the native runtime on a CPU"):
        Reranker(str(tiny_reranker), dtype="int8", runtime="transformers").log_odds("q", ["a"])


def test_unloading_frees_the_weights(tiny_reranker: Path) -> None:
    import gc

    from qwen3_rag.models.engine import linear

    gc.collect()
    before = len(linear._modules)
    reranker = Reranker(str(tiny_reranker), dtype="bfloat16", runtime_options={"compile": False})
    reranker.log_odds("q", ["a"])
    assert len(linear._modules) > before
    reranker.unload()
    gc.collect()
    assert len(linear._modules) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile": "yes"}, "compile is 'yes'; expected 'auto', True or False"),
        ({"token_budget": 0}, "token_budget is 0"),
        ({"attention": "fast"}, "unknown attention 'fast'"),
        ({"budget": 3}, "unknown option of runtime 'native' 'budget'"),
    ],
)
def test_wrong_options_are_errors_at_construction(
    tiny_reranker: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Reranker(str(tiny_reranker), runtime_options=options)


def test_one_thread_computes_for_all_callers_with_the_same_scores(tiny_reranker: Path) -> None:
    code = (
        "import sys, threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import numpy as np\n"
        "from qwen3_rag import Reranker\n"
        "from qwen3_rag.models.engine.compute import use_one_thread\n"
        "plain = Reranker(sys.argv[1], dtype='float32').score('tide', ['moon', 'bread'])\n"
        "use_one_thread()\n"
        "reranker = Reranker(sys.argv[1], dtype='float32')\n"
        "reranker.warm_up()\n"
        "runner, names = reranker.loaded.engine.runner, set()\n"
        "run = runner.run\n"
        "def named(*given, **options):\n"
        "    names.add(threading.current_thread().name)\n"
        "    return run(*given, **options)\n"
        "runner.run = named\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    rows = list(pool.map(lambda _: reranker.score('tide', ['moon', 'bread']), range(40)))\n"
        "np.testing.assert_allclose(rows, [plain] * 40, atol=1e-5)\n"
        "runner.run = lambda *_, **__: 1 / 0\n"
        "try: reranker.score('tide', ['moon'])\n"
        "except ZeroDivisionError: print(sorted(names))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny_reranker)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['qwen3-rag-compute_0']"


@pytest.mark.parametrize(
    ("first", "names"), [("main", ["MainThread", "caller_0"]), ("others", ["qwen3-rag-compute_0"])]
)
def test_threads_of_a_program_that_does_not_compute_in_its_main_thread_share_one(
    tiny_reranker: Path, first: str, names: list[str]
) -> None:
    code = (
        "import sys, threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from qwen3_rag import Reranker\n"
        "from qwen3_rag.models.engine.runner import Runner\n"
        "names, run = set(), Runner.run\n"
        "def named(*given, **options):\n"
        "    names.add(threading.current_thread().name)\n"
        "    return run(*given, **options)\n"
        "Runner.run = named\n"
        "reranker = Reranker(sys.argv[1], dtype='float32')\n"
        "score = lambda: reranker.score('tide', ['moon', 'bread'])\n"
        "if sys.argv[2] == 'main': score()\n"
        "with ThreadPoolExecutor(1, 'caller') as pool: pool.submit(score).result()\n"
        "score()\n"
        "print(sorted(names))\n"
    )
    command = [sys.executable, "-c", code, str(tiny_reranker), first]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(names)
