"""Training of small Qwen3 embedders for real: inference's vectors, learning, and every runtime afterwards."""

import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from conftest import save_model
from qwen3_rag import Embedder, InvalidArgumentError, TrainingError
from qwen3_rag.cli import app
from qwen3_rag.models.checkpoints.formats import EmbedFormat
from qwen3_rag.prompts import resolve_instruction
from qwen3_rag.training import EmbedderSettings, TrainingList, train_embedder
from qwen3_rag.training.embedder import contrastive
from qwen3_rag.training.models import Lora, TrainedEmbedder

WORDS = ["tide", "bread", "moon", "violin", "ice", "lamp", "apple", "valve", "river", "string", "oil", "yeast"]


def lists_of(count: int) -> list[TrainingList]:
    """A document is about a query if it has both of its words: what a random model hardly knows."""
    pairs = list(combinations(WORDS, 2))
    random.Random(1).shuffle(pairs)
    lists = []
    for number, (first, second) in enumerate(pairs[:count]):
        third, fourth = random.Random(number).sample([word for word in WORDS if word not in (first, second)], 2)
        documents = f"{second} with {first}", f"{third} with {first}", f"{second} with {fourth}"
        lists.append(TrainingList(f"list {number}", f"{first} {second}", documents, (1, 0, 0)))
    return lists


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Path:
    return save_model(tmp_path_factory.mktemp("base"), "embedding", tokenizer=tokenizer_json, layers=2)


def settings(**options: Any) -> EmbedderSettings:
    usual: dict[str, Any] = {"lora_rank": 0, "learning_rate": 2e-3, "epochs": 8, "evaluations": 4, "batch_lists": 8}
    usual |= {"dimensions": (32,), "held_out": 0.15, "dtype": "float32"}
    return EmbedderSettings(**usual | options)


def test_training_vectors_are_those_of_inference(base: Path) -> None:
    trained = TrainedEmbedder(base, None, "cpu", "float32", 1)
    form, texts = EmbedFormat(trained.tokens, 512), ["The Danube.", "", "<|endoftext|>", "维也纳 " * 20]
    with torch.no_grad():
        documents = trained.states(form.documents(texts).ids).numpy()
        queries = trained.states(form.queries(texts, resolve_instruction(None, {})).ids).numpy()
    inference = Embedder(str(base), dtype="float32")
    for states, expected in ((documents, inference.encode_document(texts)), (queries, inference.encode_query(texts))):
        vectors = states / np.linalg.norm(states, axis=1, keepdims=True)
        np.testing.assert_allclose((vectors * expected).sum(axis=1), 1, atol=1e-5)


def test_the_loss_is_that_of_the_formula_at_every_dimension_and_skips_other_relevant_documents() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, documents = (torch.randn(n, 8, generator=generator) for n in (3, 5))
    targets, banned = torch.tensor([0, 2, 4]), torch.zeros(3, 5, dtype=torch.bool)
    banned[0, 3] = True
    expected = []
    for size in (8, 4):
        q, d = (x[:, :size].numpy() / np.linalg.norm(x[:, :size], axis=1, keepdims=True) for x in (queries, documents))
        exp = np.exp(q @ d.T / 0.1) * ~banned.numpy()
        expected.append(-np.log(exp[range(3), targets] / exp.sum(axis=1)).mean())
    loss = contrastive(queries, documents, targets, banned, 0.1, (8, 4))
    assert loss.item() == pytest.approx(np.mean(expected), abs=1e-5)


@pytest.mark.parametrize("rank", [0, 8])
def test_training_learns_and_the_result_is_an_embedder_in_every_runtime(base: Path, tmp_path: Path, rank: int) -> None:
    options = settings(lora_rank=rank, learning_rate=1e-2 if rank else 2e-3)
    report = train_embedder(lists_of(66), tmp_path / "out", model=str(base), settings=options, device="cpu")
    assert report["improved"]
    assert report["after"]["nDCG@10"] > report["before"]["nDCG@10"] + 0.1
    assert "# A fine-tuned embedder" in (tmp_path / "out/README.md").read_text()
    texts = ["tide", "bread with moon", "维也纳"]
    vectors = [
        Embedder(str(tmp_path / "out/merged"), dtype="float32", runtime=runtime).encode_document(texts)
        for runtime in ("native", "transformers", "sentence-transformers")
    ]
    for other in vectors[1:]:
        np.testing.assert_allclose((other * vectors[0]).sum(axis=1), 1, atol=1e-5)


def test_a_merged_adapter_gives_the_vectors_of_base_and_adapter(base: Path, tmp_path: Path) -> None:
    trained = TrainedEmbedder(base, Lora(4), "cpu", "float32", 1)
    with torch.no_grad():
        for name, weight in trained.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    trained.save(tmp_path)
    ids = EmbedFormat(trained.tokens, 512).documents(["tide", "moon and bread"]).ids
    with torch.no_grad():
        states = trained.states(ids).numpy()
    expected = states / np.linalg.norm(states, axis=1, keepdims=True)
    merged = Embedder(str(tmp_path / "merged"), dtype="float32").encode_document(["tide", "moon and bread"])
    np.testing.assert_allclose(merged, expected, atol=1e-4)
    plain = Embedder(str(base), dtype="float32").encode_document(["tide", "moon and bread"])
    assert np.abs(plain - merged).max() > 0.01


def test_wrong_data_and_settings_are_errors(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="dimensions has 128; this model gives 64"):
        train_embedder(lists_of(40), tmp_path / "a", model=str(base), settings=settings(dimensions=(128,)))
    long = [*lists_of(40), TrainingList("data:3", "q", ("tide " * 600, "b"), (1, 0))]
    with pytest.raises(TrainingError, match=r"data:3: .* tokens; expected fewer than max_length=512"):
        train_embedder(long, tmp_path / "b", model=str(base), settings=settings())
    with pytest.raises(InvalidArgumentError, match="temperature is 0"):
        settings(temperature=0)


def test_the_command_trains_an_embedder(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "lists.jsonl"

    records = [{"query": o.query, "positive": o.documents[0], "negative": o.documents[1:]} for o in lists_of(60)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    arguments = ["-q", "train", "embedder", str(path), "--out", str(tmp_path / "out"), "--model", str(base)]
    options = ["--lora-rank", "0", "--learning-rate", "2e-3", "--epochs", "3", "--device", "cpu"]
    failed = CliRunner().invoke(app, [*arguments, *options])
    assert failed.exit_code == 2, failed.output  # its Matryoshka sizes are those of the real models
    assert "dimensions has 256; this model gives 64" in failed.output
