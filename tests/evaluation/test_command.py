"""`qwen3-rag eval` and its example as a user runs them: a process of its own, real files, small Qwen3 models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

COMMAND = [sys.executable, "-c", "from qwen3_rag.cli import main; main()", "--quiet", "eval"]


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    (folder / "qrels").mkdir(parents=True)
    texts = {f"d{number}": f"text number {number} about {'tides' if number % 2 else 'bread'}" for number in range(12)}
    corpus = (json.dumps({"_id": name, "title": "", "text": text}) for name, text in texts.items())
    (folder / "corpus.jsonl").write_text("\n".join(corpus), "utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "tides"}\n{"_id": "r", "text": "bread"}\n', "utf-8")
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\nr\td2\t1\n", "utf-8")
    return folder


def run(command: list[str], *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"}
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done


def test_eval_prints_a_table_and_writes_the_report(
    collection: Path, tmp_path: Path, tiny_embedder: Path, tiny_reranker: Path
) -> None:
    models = ("--embedder", tiny_embedder, "--reranker", tiny_reranker)
    said = run(COMMAND, collection, "--out", tmp_path / "out", *models, "--candidates", 10, "--sweep", "blend=0,0.5")
    for name in ("2 queries", "dense", "lexical", "hybrid", "reranked", "ceiling", "nDCG@10", "reranked against dense"):
        assert name in said.stdout
    report = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    assert report["models"]["reranker"]["model"] == str(tiny_reranker)
    assert "<svg" in (tmp_path / "out/report.html").read_text("utf-8")
    assert sorted(path.stem for path in (tmp_path / "out/runs").iterdir()) == ["dense", "hybrid", "lexical", "reranked"]


def test_eval_of_a_store_may_leave_its_reranker_out(
    collection: Path, tmp_path: Path, tiny_embedder: Path, tiny_reranker: Path
) -> None:
    models = ("--embedder", tiny_embedder, "--reranker", tiny_reranker)
    run(COMMAND, collection, "--out", tmp_path / "out", *models, "--candidates", 10)
    said = run(COMMAND, collection, "--out", tmp_path / "b", "--store", tmp_path / "out/store", "--reranker", "none")
    assert "dense" in said.stdout
    assert "reranked" not in said.stdout


def test_eval_of_a_store_of_another_embedder_is_an_error(
    collection: Path, tmp_path: Path, tiny_embedder: Path, tiny_reranker: Path
) -> None:
    models = ("--embedder", tiny_embedder, "--reranker", tiny_reranker)
    run(COMMAND, collection, "--out", tmp_path / "out", *models, "--candidates", 10)
    other = ("--store", tmp_path / "out/store", "--embedder", tiny_reranker)
    failed = run(COMMAND, collection, "--out", tmp_path / "again", *other, code=1)
    assert failed.stderr.startswith("error: ")
    assert not (tmp_path / "again/report.json").exists()


def test_eval_of_runs_needs_no_model_and_a_bad_line_is_one_line(collection: Path, tmp_path: Path) -> None:
    (collection / "corpus.jsonl").unlink()
    (tmp_path / "mine.trec").write_text("q Q0 d1 1 2.0 me\nr Q0 d1 1 2.0 me\n")
    said = run(COMMAND, collection, "--out", tmp_path / "out", "--run", tmp_path / "mine.trec", "--json")
    assert json.loads(said.stdout)["runs"]["mine"]["nDCG@10"] == 0.5
    (tmp_path / "mine.trec").write_text("q d1 2.0\n")
    failed = run(COMMAND, collection, "--out", tmp_path / "out", "--run", tmp_path / "mine.trec", code=1)
    assert failed.stderr.strip() == (
        f"error: {tmp_path / 'mine.trec'}:1: expected the six columns of a TREC run, got 'q d1 2.0'"
    )
    misused = run(COMMAND, collection, "--out", tmp_path / "out", "--sweep", "blend", code=2)
    assert "expected a name and values" in misused.stderr


def test_calibrate_prints_what_it_found_and_searches_use_it(
    tmp_path: Path, tiny_embedder: Path, tiny_reranker: Path
) -> None:
    words = [
        f"{a}{b}" for a in ("amber", "basalt", "cedar", "dune", "elm") for b in ("arch", "bell", "cove", "dell", "eye")
    ]
    folder = tmp_path / "judged"
    folder.mkdir()
    (folder / "queries.tsv").write_text("".join(f"q{i}\t{word}\n" for i, word in enumerate(words)))
    (folder / "qrels.txt").write_text("".join(f"q{i} 0 {word}.txt 1\n" for i, word in enumerate(words)))
    for word in words:
        (folder / f"{word}.txt").write_text(f"All about {word}, at length.")
    indexed, store = [folder / f"{word}.txt" for word in words], tmp_path / "store"
    models = ("--embedder", tiny_embedder, "--reranker", tiny_reranker)
    command = COMMAND[:-1]
    run(command, "index", *indexed, "--store", store, *models)
    ids = [line.split()[0] for line in run(command, "list", store).stdout.splitlines()]
    grades = {Path(name).stem: name for name in ids}
    (folder / "qrels.txt").write_text("".join(f"q{i} 0 {grades[word]} 1\n" for i, word in enumerate(words)))
    files = (folder / "queries.tsv", folder / "qrels.txt")
    said = run(command, "calibrate", store, *files, "--candidates", 20, "--precision", 0.05, "--out", tmp_path / "out")
    assert "pairs of 25 queries" in said.stdout
    assert "expected calibration error, all:" in said.stdout
    assert (tmp_path / "out/reliability.svg").is_file()
    found = json.loads(run(command, "search", store, "amberarch", "--json", "-k", 1).stdout)
    assert 0 < found["probability"] < 1
    none = run(command, "search", store, "amberarch", "--min-probability", 1.0)
    assert "no hit is probable enough" in none.stdout
    few = run(command, "calibrate", store, folder / "queries.tsv", folder / "few.txt", code=1)
    assert "few.txt cannot be read" in few.stderr


def test_the_example_evaluates_a_folder(
    collection: Path, tmp_path: Path, tiny_embedder: Path, tiny_reranker: Path
) -> None:
    command = [sys.executable, str(ROOT / "examples/evaluate_beir.py")]
    models = ("--embedder", tiny_embedder, "--reranker", tiny_reranker)
    said = run(command, collection, "--out", tmp_path / "out", *models, "--candidates", 10)
    assert "reranked" in said.stdout
    assert "with the best order of the same candidates" in said.stdout
