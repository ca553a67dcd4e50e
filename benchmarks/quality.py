r"""The figures of the docs: models on collections in BEIR layout, by `qwen3_rag.evaluation.evaluate`.

    python benchmarks/quality.py data/demo --rerankers demo demo-minilm --candidates 20 \
        --groups English=q-sci,q-hum code=q-code other=q-mul
    python benchmarks/quality.py path/to/cranfield path/to/cosqa --rerankers demo-minilm --candidates 50 --queries 100
    python benchmarks/quality.py path/to/cranfield --embedder all-MiniLM-L6-v2/ --runtime sentence-transformers --whole

Rows go to results/quality.json, in place of rows of the same collection, models, candidates and number of queries.
Stores and scored pairs are kept in .benchmarks/, so a second run with other queries or rerankers costs what is new.
"""

import argparse
import json
import logging
import platform
from pathlib import Path
from typing import Any

from qwen3_rag import Document, Embedder, Pipeline
from qwen3_rag.evaluation import evaluate
from qwen3_rag.evaluation.figures import MAIN, by_query, mean
from qwen3_rag.evaluation.judged import read_folder, read_run
from qwen3_rag.records import passage_text

PROMPT = 16  # tokens that a store leaves free for the embedder's prompt
SUM = 0.5  # blend that adds both stages' scores with equal weights
IDENTITY = ("collection", "embedder", "reranker", "queries", "candidates", "skipped", "whole")


def measured(folder: Path, embedder: Embedder, reranker: str, options: argparse.Namespace) -> dict[str, Any]:
    """One collection with one pair of models: every run's nDCG@10, and what the reranker changes."""
    place = options.kept / f"{folder.name} {Path(embedder.model).name}"
    out = place / Path(reranker).name
    common: dict[str, Any] = {"limit": options.queries, "candidates": options.candidates, "show_progress": True}
    common["queries"] = _later_queries(folder, place, options.skip)
    if not (place / "store").exists():
        place.mkdir(parents=True, exist_ok=True)
        _index(folder / "corpus.jsonl", place / "store", embedder, options.whole)
    common |= {"store": place / "store", "embedder": embedder, "reranker": reranker}
    row: dict[str, Any] = {}
    groups = _groups(folder, options.groups)
    if reranker != "none":
        added = evaluate(folder, out, **common, blend=SUM)
        row["sum"] = added["runs"]["reranked"][MAIN]
        row["sum against dense"] = _change(added)
        row["sum by group"] = _by_group(folder, out, groups)
    report = evaluate(folder, out, **common)
    row |= {
        "collection": folder.name,
        "queries": report["queries"],
        "embedder": Path(embedder.model).name,
        "reranker": Path(reranker).name,
        "candidates": options.candidates if reranker != "none" else 0,
        "skipped": options.skip,
        "whole": options.whole,
        **{name: values[MAIN] for name, values in report["runs"].items()},
    }
    if reranker != "none":
        row |= {"ceiling": round(report["ceiling"][MAIN], 4), "reranked against dense": _change(report)}
        row["adaptive"] = report.get("adaptive")
    if groups:
        row["by group"] = _by_group(folder, out, groups)
    return {name: value for name, value in row.items() if value not in ({}, None)}


def _index(corpus: Path, store: Path, embedder: Embedder, whole: bool) -> None:
    """Make the store; with `whole`, each document is one passage, of which the embedder reads what it can."""
    if not whole:
        with Pipeline.create(store, embedder, None) as pipeline:
            pipeline.index(corpus, show_progress=True)
        return
    records = [json.loads(line) for line in corpus.read_text("utf-8").splitlines()]
    documents = [Document(r["text"], r["_id"], title=r.get("title") or None) for r in records]
    texts = [passage_text(document.text, document.title) for document in documents]
    with Pipeline.create(store, embedder, None, chunk_tokens=embedder.longest - PROMPT) as pipeline:
        pipeline.add(documents, vectors=embedder.encode_document(texts, show_progress=True))


def _later_queries(folder: Path, place: Path, skip: int) -> Path | None:
    """A file of the queries after the first `skip` ones, on which something was chosen."""
    if not skip:
        return None
    place.mkdir(parents=True, exist_ok=True)
    lines = (folder / "queries.jsonl").read_text("utf-8").splitlines(keepends=True)
    file = place / f"queries-from-{skip}.jsonl"
    file.write_text("".join(lines[skip:]), "utf-8")
    return file


def _change(report: dict[str, Any]) -> dict[str, Any]:
    change = report["comparisons"][0]
    interval = change["interval"] and [round(end, 4) for end in change["interval"]]
    return {"difference": round(change["difference"], 4), "interval": interval, "p": change["p"]}


def _groups(folder: Path, named: list[str]) -> dict[str, list[str]]:
    """Query ids by group; `code=q-code,q-sql` is the group of ids that begin with one of these."""
    records = map(json.loads, (folder / "queries.jsonl").read_text("utf-8").splitlines())
    ids = [record["_id"] for record in records]
    prefixes = {name: tuple(starts.split(",")) for name, _, starts in (each.partition("=") for each in named)}
    return {name: [query for query in ids if query.startswith(starts)] for name, starts in prefixes.items()}


def _by_group(folder: Path, out: Path, groups: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """nDCG@10 of each written run on each group of queries."""
    judged = read_folder(folder)
    values = {path.stem: by_query(judged, read_run(path)) for path in sorted((out / "runs").glob("*.trec"))}
    return {
        group: {"queries": len(names)} | {run: round(mean(each, names)[MAIN], 4) for run, each in values.items()}
        for group, names in groups.items()
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--embedder", default="demo", help="preset, folder or hub id")
    parser.add_argument("--runtime", default="native", help="the embedder's")
    parser.add_argument("--rerankers", nargs="+", default=["none"], help="presets, folders or hub ids")
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--queries", type=int, help="first so many judged queries; by default all")
    parser.add_argument("--whole", action="store_true", help="a document is one passage, truncated by the embedder")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many queries")
    parser.add_argument("--groups", nargs="+", default=[], help="groups of queries: name=prefix,prefix of their ids")
    parser.add_argument("--kept", type=Path, default=Path(".benchmarks/quality"))
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/quality.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    embedder = Embedder(options.embedder, runtime=options.runtime)
    machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    for folder in options.folders:
        for reranker in options.rerankers:
            row = measured(folder, embedder, reranker, options)
            print(json.dumps(row), flush=True)
            kept = json.loads(options.json.read_text())["rows"] if options.json.exists() else []
            rows = [other for other in kept if any(other.get(name, 0) != row[name] for name in IDENTITY)] + [row]
            rows.sort(key=lambda row: [str(row.get(name, 0)) for name in IDENTITY])
            options.json.write_text(json.dumps(machine | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
