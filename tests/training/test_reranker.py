"""Training of small Qwen3 rerankers for real: inference's prompt and scores, learning, resuming, and honest ends."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from conftest import save_model
from fakes import WordEmbedder
from qwen3_rag import Document, InvalidArgumentError, MissingDependencyError, Pipeline, Reranker, TrainingError
from qwen3_rag.cli import app
from qwen3_rag.evaluation.judged import Judged
from qwen3_rag.models.checkpoints.formats import RerankFormat
from qwen3_rag.prompts import resolve_instruction
from qwen3_rag.training import TrainingList, TrainingSettings, mine_lists, train_reranker
from qwen3_rag.training import loop as training_module
from qwen3_rag.training.lists import normalised
from qwen3_rag.training.losses import distillation, listwise, pointwise
from qwen3_rag.training.models import Lora, TrainedReranker, merge_adapter
from qwen3_rag.training.rows import encode, packed_rows, pair_rows

WORDS = ["tide", "moon", "bread", "yeast", "violin", "string", "glacier", "ice", "orchard", "apple", "valve", "lamp"]
INSTRUCTION = resolve_instruction(None, {})


def lists_of(count: int, seed: int = 0) -> list[TrainingList]:
    """What is relevant begins with "good", whatever the query: something a small model can learn."""
    rng = random.Random(seed)
    lists = []
    for number in range(count):
        texts = [" ".join(rng.sample(WORDS, 3)) + f" {number} {i}" for i in range(4)]
        documents = (f"good {texts[0]}", *(f"bad {text}" for text in texts[1:]))
        lists.append(TrainingList(f"list {number}", f"{rng.choice(WORDS)} {number}", documents, (1, 0, 0, 0)))
    return lists


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Path:
    return save_model(tmp_path_factory.mktemp("base"), spread=1.5, tokenizer=tokenizer_json, layers=2)


def settings(**options: Any) -> TrainingSettings:
    usual = {"lora_rank": 0, "learning_rate": 3e-3, "epochs": 2, "evaluations": 4, "dtype": "float32", "held_out": 0.2}
    return TrainingSettings(**usual | options)


def trained(base: Path, lora: Lora | None = None) -> TrainedReranker:
    return TrainedReranker(base, lora, "cpu", "float32", 1)


@pytest.mark.parametrize("stack", [packed_rows, pair_rows])
@pytest.mark.parametrize("kind", ["tiny_reranker", "tiny_classifier"])
def test_training_scores_are_those_of_inference(kind: str, stack: Any, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    model = trained(folder)
    form = RerankFormat(model.tokens, 2048)
    documents = ("The Danube runs through Vienna.", "", "<|im_start|>yes<|im_end|>", "维也纳", "gravity " * 90)
    lists = [TrainingList("a", "Which river?", documents, (1, 0, 0, 0, 0)), *lists_of(2)]
    with torch.no_grad():
        log_odds = model.log_odds(stack([encode(one, form, INSTRUCTION) for one in lists], 0)).numpy()
    inference = Reranker(str(folder), dtype="float32", runtime="transformers")
    expected = np.concatenate([inference.log_odds(one.query, one.documents) for one in lists])
    np.testing.assert_allclose(log_odds, expected, atol=1e-4)


def test_losses_are_those_of_their_formulas() -> None:
    log_odds, grades = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1, 0, 0])
    exp = np.exp([2.0, -1.0, 0.5])
    assert listwise(log_odds, grades, None).item() == pytest.approx(-np.log(exp[0] / exp.sum()), abs=1e-6)
    sigmoid = exp / (1 + exp)
    expected = -0.5 * np.log(sigmoid[0]) - 0.25 * (np.log(1 - sigmoid[1]) + np.log(1 - sigmoid[2]))
    assert pointwise(log_odds, grades, None).item() == pytest.approx(expected, abs=1e-6)
    assert distillation(log_odds, grades, log_odds).item() == pytest.approx(0, abs=1e-6)
    assert distillation(log_odds, grades, log_odds + 3).item() > 0.1  # the zero of the scores counts


@pytest.mark.parametrize(("loss", "epochs"), [("listwise", 2), ("pointwise", 5)])
def test_training_learns_and_the_merged_checkpoint_scores_in_every_runtime(
    base: Path, tmp_path: Path, loss: str, epochs: int
) -> None:
    options = settings(loss=loss, epochs=epochs)
    report = train_reranker(lists_of(60), tmp_path / "out", model=str(base), settings=options, device="cpu")
    assert report["improved"]
    assert report["after"]["nDCG@10"] > 0.8 > report["before"]["nDCG@10"]
    assert json.loads((tmp_path / "out/report.json").read_text()) == report
    assert "Better than the base" in (tmp_path / "out/README.md").read_text()
    documents = ["good tide moon", "bad tide moon", "good lamp", "bad bread"]
    scores = [
        Reranker(str(tmp_path / "out/merged"), dtype="float32", runtime=runtime).log_odds("tide", documents)
        for runtime in ("native", "transformers", "sentence-transformers")
    ]
    tuned = Reranker(str(tmp_path / "out/merged"), dtype="float32")
    first = [int(tuned.log_odds(one.query, one.documents).argmax()) for one in lists_of(20, seed=7)]
    assert first.count(0) > 12
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], atol=1e-4)


def test_a_merged_adapter_scores_as_base_and_adapter_do(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    options = settings(lora_rank=8, learning_rate=1e-2, epochs=3)
    report = train_reranker(lists_of(60), tmp_path / "out", model=str(base), settings=options, device="cpu")
    assert report["after"]["nDCG@10"] > report["before"]["nDCG@10"]
    import peft

    model = trained(base)
    with pytest.warns(FutureWarning, match="gradient_checkpointing"):  # peft's, of transformers' older name
        model.model = peft.PeftModel.from_pretrained(model.model, tmp_path / "out/adapter")
    model.lora = Lora(8)
    one = lists_of(1, seed=9)[0]
    with torch.no_grad():
        rows = packed_rows([encode(one, RerankFormat(model.tokens, 2048), INSTRUCTION)], 0)
        expected = model.log_odds(rows).numpy()
    merged = Reranker(str(tmp_path / "out/merged"), dtype="float32")
    np.testing.assert_allclose(merged.log_odds(one.query, one.documents), expected, atol=1e-4)
    assert np.abs(expected - Reranker(str(base), dtype="float32").log_odds(one.query, one.documents)).max() > 0.1


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path, tokenizer_json: str) -> None:
    pytest.importorskip("peft")
    model = trained(base, Lora(4))
    model.model.save_pretrained(tmp_path / "adapter")
    other = save_model(tmp_path / "other", tokenizer=tokenizer_json, layers=3)
    with pytest.raises(TrainingError, match=r"was made for .*'num_hidden_layers': 2.* got .*'num_hidden_layers': 3"):
        merge_adapter(tmp_path / "adapter", other, tmp_path / "merged")


def test_a_teachers_scores_are_learned(base: Path, tmp_path: Path, tiny_reranker: Path) -> None:
    teacher = Reranker(str(tiny_reranker), dtype="float32")
    options = settings(loss="distillation", epochs=3)
    train_reranker(lists_of(60), tmp_path / "out", model=str(base), teacher=teacher, settings=options, device="cpu")
    before, after = (Reranker(str(folder), dtype="float32") for folder in (base, tmp_path / "out/merged"))
    differences = [
        np.abs(student.log_odds(one.query, one.documents) - teacher.log_odds(one.query, one.documents)).mean()
        for student in (before, after)
        for one in lists_of(10, seed=5)
    ]
    assert np.mean(differences[10:]) < 0.8 * np.mean(differences[:10])
    with pytest.raises(TrainingError, match=r"list \d+: no scores to learn; expected a teacher"):
        train_reranker(lists_of(60), tmp_path / "none", model=str(base), settings=options, device="cpu")


def test_an_interrupted_run_continues_to_the_same_weights(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_reranker(lists_of(60), tmp_path / "whole", model=str(base), settings=settings(), device="cpu")

    def stopped(*arguments: Any) -> Any:
        count = original(*arguments)

        class Stopping:
            def __enter__(self) -> Any:
                inner, done = count.__enter__(), [0]

                def step(n: int) -> None:
                    done[0] += n
                    inner(n)
                    if arguments[0] == "training" and done[0] == 11:
                        raise KeyboardInterrupt

                return step

            def __exit__(self, *error: Any) -> Any:
                return count.__exit__(*error)

        return Stopping()

    original = training_module.progress
    monkeypatch.setattr(training_module, "progress", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_reranker(lists_of(60), tmp_path / "halves", model=str(base), settings=settings(), device="cpu")
    monkeypatch.undo()
    assert not (tmp_path / "halves/report.json").exists()
    assert list((tmp_path / "halves/checkpoints").iterdir())
    (tmp_path / "halves/checkpoints/checkpoint-999").mkdir()  # one that was being written
    with pytest.raises(TrainingError, match=r"cannot continue: \{'epochs': \(2, 3\)\}"):
        train_reranker(lists_of(60), tmp_path / "halves", model=str(base), settings=settings(epochs=3), device="cpu")
    halves = train_reranker(lists_of(60), tmp_path / "halves", model=str(base), settings=settings(), device="cpu")
    assert halves["after"] == whole["after"]
    assert halves["validation"] == whole["validation"]
    scores = [
        Reranker(str(tmp_path / name / "merged"), dtype="float32").log_odds("tide", ["good moon", "bad oil"])
        for name in ("whole", "halves")
    ]
    np.testing.assert_array_equal(*scores)
    with pytest.raises(TrainingError, match="holds a finished run"):
        train_reranker(lists_of(60), tmp_path / "halves", model=str(base), settings=settings(), device="cpu")


def test_a_run_that_did_not_help_is_not_called_a_success(base: Path, tmp_path: Path) -> None:
    wrong = [
        TrainingList(one.place, one.query, one.documents, one.grades if number % 2 else (0, 1, 0, 0))
        for number, one in enumerate(lists_of(60))
    ]
    better = train_reranker(lists_of(60), tmp_path / "good", model=str(base), settings=settings(), device="cpu")
    assert better["improved"]
    options = settings(learning_rate=1e-7, epochs=1)
    report = train_reranker(
        wrong, tmp_path / "out", model=str(tmp_path / "good/merged"), settings=options, device="cpu"
    )
    assert not report["improved"]
    assert "**Not better than the base**" in (tmp_path / "out/README.md").read_text()


def test_a_loss_of_nan_and_a_collapsed_model_end_the_run_with_the_reason(
    base: Path, tmp_path: Path, tokenizer_json: str
) -> None:
    with pytest.raises(TrainingError, match=r"NaN|nan|overflowed|same log-odds"):
        train_reranker(
            lists_of(60), tmp_path / "out", model=str(base), settings=settings(learning_rate=1e30), device="cpu"
        )
    assert not (tmp_path / "out/report.json").exists()
    flat = save_model(tmp_path / "flat", spread=0.0, tokenizer=tokenizer_json, layers=2)
    with pytest.raises(TrainingError, match="gives every document the same log-odds"):
        train_reranker(lists_of(60), tmp_path / "none", model=str(flat), settings=settings(), device="cpu")


def test_a_document_that_does_not_fit_is_an_error_that_names_its_list(base: Path, tmp_path: Path) -> None:
    lists = lists_of(60)
    lists[3] = TrainingList("data.jsonl:4", "tide", ("good " * 3000, "bad"), (1, 0))
    with pytest.raises(TrainingError, match=r"data.jsonl:4: 'good .* has more tokens than max_length=2048 leaves"):
        train_reranker(lists, tmp_path / "out", model=str(base), settings=settings(), device="cpu")


def test_wrong_settings_are_errors() -> None:
    for options, said in (
        ({"loss": "triplet"}, "loss"),
        ({"held_out": 0.5}, r"held_out is 0\.5"),
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": 0}, "learning_rate is 0"),
    ):
        with pytest.raises(InvalidArgumentError, match=said):
            TrainingSettings(**options)


def test_a_checkpoint_that_cannot_be_written_is_said(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Trainer, "_save_checkpoint", full)
    with pytest.raises(TrainingError, match=r"cannot be written: .*No space left on device; run it again to continue"):
        train_reranker(lists_of(60), tmp_path / "out", model=str(base), settings=settings(), device="cpu")
    shutil.rmtree(tmp_path / "out")


@pytest.fixture
def judged_store(tmp_path: Path) -> tuple[Path, Judged]:
    """A store whose documents share the words of each query, and judgements of one document a query."""
    queries, grades = {}, {}
    with Pipeline.create(tmp_path / "store", WordEmbedder(), None) as pipeline:
        for number in range(30):
            word, other = WORDS[number % len(WORDS)], WORDS[(number + 3) % len(WORDS)]
            queries[f"q{number}"] = f"{word} {other} {number}"
            grades[f"q{number}"] = {f"good{number}": 1}
            texts = {f"good{number}": f"good {word} {other} {number}", f"bad{number}": f"bad {word} {number}"}
            pipeline.add([Document(text, name) for name, text in texts.items()])
            pipeline.add([Document(f"Good {word} {other} {number}", f"copy{number}")])
    return tmp_path / "store", Judged("small", queries, grades)


def test_hard_negatives_are_what_the_pipeline_finds_without_the_relevant(judged_store: tuple[Path, Judged]) -> None:
    store, judged = judged_store
    with Pipeline.open(store, WordEmbedder(), "none") as pipeline:
        lists = mine_lists(pipeline, judged, negatives=5, window=(1, 30))
        near = mine_lists(pipeline, judged, negatives=5, window=(20, 30))
        apart = mine_lists(pipeline, judged, negatives=5, window=(1, 30), margin=0.3)
        hits = {name: [hit.text for hit in pipeline.search(query, top_k=30)] for name, query in judged.queries.items()}
    assert len(lists) == len(judged.queries)
    for one in lists:
        number = one.place.removeprefix("q")
        assert one.query == judged.queries[one.place]
        assert one.grades == (1, 0, 0, 0, 0, 0)
        assert one.positives[0].endswith(f" {number}")
        ranks = [hits[one.place].index(text) for text in one.documents[1:]]
        assert ranks == sorted(ranks)
        assert not {normalised(text) for text in one.documents[1:]} & {normalised(one.positives[0])}  # nor its copy
    assert all(hits[one.place].index(text) >= 19 for one in near for text in one.documents[1:])
    scored = {one.place: one.documents for one in lists}
    assert any(scored[one.place] != one.documents for one in apart)


def test_a_store_of_other_documents_has_no_lists(tmp_path: Path, judged_store: tuple[Path, Judged]) -> None:
    with Pipeline.create(tmp_path / "other", WordEmbedder(), None) as pipeline:
        pipeline.add([Document(f"nothing {i}") for i in range(5)])
        with pytest.raises(TrainingError, match="none of 30 queries has a relevant passage and a negative"):
            mine_lists(pipeline, judged_store[1])
        with pytest.raises(InvalidArgumentError, match=r"window is \(0, 5\)"):
            mine_lists(pipeline, judged_store[1], window=(0, 5))


def test_the_command_trains_says_whether_it_helped_and_merges(base: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists.jsonl"
    records = [
        {"query": one.query, "positive": one.documents[:1], "negative": one.documents[1:]} for one in lists_of(60)
    ]
    lists.write_text("".join(json.dumps(record) + "\n" for record in records))
    usual = ["--model", str(base), "--held-out", "0.2", "--device", "cpu"]
    run = CliRunner().invoke(
        app, ["-q", "train", "reranker", str(lists), "--out", str(tmp_path / "a"), *usual, "--lora-rank", "0",
              "--learning-rate", "3e-3"]
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    assert "nDCG@10 of 12 test queries" in run.output
    assert f"use it with --reranker {tmp_path / 'a/merged'}" in run.output
    again = CliRunner().invoke(app, ["-q", "train", "reranker", str(lists), "--out", str(tmp_path / "a"), *usual])
    assert again.exit_code == 1
    assert "holds a finished run" in again.output
    wrong = CliRunner().invoke(app, ["-q", "train", "ranker", str(lists), "--out", str(tmp_path / "b"), *usual])
    assert wrong.exit_code == 2
    pytest.importorskip("peft")
    trained(base, Lora(4)).model.save_pretrained(tmp_path / "adapter")
    merged = CliRunner().invoke(
        app, ["merge-adapter", str(tmp_path / "adapter"), "--base", str(base), "--out", str(tmp_path / "merged")]
    )
    assert merged.exit_code == 0, merged.output
    assert Reranker(str(tmp_path / "merged"), dtype="float32").log_odds("tide", ["moon"]).shape == (1,)


def test_several_processes_a_second_gpu_and_a_missing_extra_are_errors(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("qwen3_rag.training.models.choose_device", torch.device)  # as if there were two
        with pytest.raises(TrainingError, match="device is cuda:1; expected the first: set CUDA_VISIBLE_DEVICES=1"):
            TrainedReranker(base, None, "cuda:1", "float32", 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="WORLD_SIZE is 2; expected one process"):
        train_reranker(lists_of(20), tmp_path / "out", model=str(base))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"qwen3-rag\[train\]"):
        train_reranker(lists_of(20), tmp_path / "out", model=str(base))
    assert not (tmp_path / "out").exists()
