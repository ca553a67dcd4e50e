r"""Does fine-tuning help? Python's standard library: find the function that a docstring describes.

    python benchmarks/fine_tuning.py proof               # the demo reranker, before and after, on modules never seen
    python benchmarks/fine_tuning.py lora --lists 300    # an adapter beside all weights, on the same few lists
    python benchmarks/fine_tuning.py embedder            # the same decoder as an embedder

A query is the first sentence of a docstring, its document the function without it. Modules are split, so that training
sees nothing of the modules that are tested. Everything goes through the command line. Rows go to
results/fine-tuning.json; collections, stores and weights stay in .benchmarks/fine-tuning/.
"""

import argparse
import ast
import json
import platform
import random
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen3_rag.evaluation.figures import MAIN, by_query, compared, mean
from qwen3_rag.evaluation.judged import read_folder, read_run
from qwen3_rag.models.checkpoints.sources import resolve

ROOT = Path(__file__).parent.parent
KEPT = ROOT / ".benchmarks/fine-tuning"
RESULTS = Path(__file__).parent / "results/fine-tuning.json"
TESTED = 0.25  # share of the modules that are only tested
LEFT_OUT = ("site-packages", "test", "tests", "idle_test", "lib2to3", "ensurepip")
FEWEST_WORDS, MOST_CHARACTERS = 4, 900


def functions() -> Iterator[tuple[str, str, str]]:
    """Module, first sentence of the docstring, and code without it, of each documented function."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root)
        if any(part in LEFT_OUT for part in module.parts):
            continue
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not (text := ast.get_docstring(node)):
                continue
            sentence = " ".join(text.split("\n\n")[0].split()).partition(". ")[0]
            node.body = node.body[1:]
            if not node.body or len(sentence.split()) < FEWEST_WORDS:
                continue
            code = ast.unparse(node)
            if len(code) <= MOST_CHARACTERS:
                yield str(module), sentence, code


def make_collections(queries: dict[str, int]) -> None:
    """Write `train` and `test` in BEIR layout; a text or a sentence that is there twice is left out."""
    rows = list(functions())
    sentences, codes = ([row[place].casefold() for row in rows] for place in (1, 2))
    rows = [
        row
        for row, sentence, code in zip(rows, sentences, codes, strict=True)
        if sentences.count(sentence) == 1 and codes.count(code) == 1
    ]
    modules = sorted({module for module, _, _ in rows})
    random.Random(17).shuffle(modules)
    tested = set(modules[: round(TESTED * len(modules))])
    for name, part in (
        ("train", [row for row in rows if row[0] not in tested]),
        ("test", [row for row in rows if row[0] in tested]),
    ):
        folder = KEPT / name
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        corpus = [{"_id": f"d{i}", "title": "", "text": code} for i, (_, _, code) in enumerate(part)]
        chosen = sorted(random.Random(17).sample(range(len(part)), queries[name]))
        judged = [{"_id": f"q{i}", "text": part[i][1]} for i in chosen]
        for file, records in (("corpus", corpus), ("queries", judged)):
            (folder / f"{file}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        grades = "".join(f"q{i}\td{i}\t1\n" for i in chosen)
        (folder / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{grades}", "utf-8")
        print(f"{name}: {len(corpus)} functions of {len({row[0] for row in part})} modules, {len(judged)} queries")


def command(*arguments: str | Path, allowed: tuple[int, ...] = (0,)) -> float:
    """Run `qwen3-rag`, and return the seconds it took."""
    began = time.perf_counter()
    words = [str(argument) for argument in arguments]
    print("$ qwen3-rag", *words, flush=True)
    done = subprocess.run([Path(sys.executable).with_name("qwen3-rag"), *words], check=False)
    if done.returncode not in allowed:
        raise SystemExit(done.returncode)
    return time.perf_counter() - began


def stores() -> None:
    """Index both collections with the demo embedder, unless they are there."""
    for name in ("train", "test"):
        if not (KEPT / f"{name}-store").exists():
            command("index", KEPT / name / "corpus.jsonl", "--store", KEPT / f"{name}-store", "--embedder", "demo")


def trained(name: str, kind: str, *more: str | Path) -> dict[str, Any]:
    """The report of a training run, which is made or continued unless it is finished."""
    out = KEPT / name
    if not (out / "report.json").exists():
        seconds = command("train", kind, *more, "--out", out, allowed=(0, 1))
        (out / "seconds").write_text(str(round(seconds)))
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    held_out = {each: round(report[each][MAIN], 4) for each in ("before", "after")}
    return {
        "seconds": int((out / "seconds").read_text()),
        "lists": report["queries"]["training"],
        "documents": report["documents"],
        "settings": report["settings"],
        "held-out lists": report["queries"]["test"],
        "held-out lists nDCG@10": held_out | {"interval": report["change"]["interval"], "p": report["change"]["p"]},
    }


def evaluated(rerankers: dict[str, str | Path], candidates: int) -> dict[str, Any]:
    """nDCG@10 of each reranker on the modules that no training saw, and its change against the first."""
    runs = {}
    for name, reranker in rerankers.items():
        out = KEPT / f"report-{name}-{candidates}"
        if not (out / "report.json").exists():
            shared = ("--store", KEPT / "test-store", "--candidates", str(candidates))
            command("eval", KEPT / "test", "--out", out, *shared, "--reranker", reranker)
        runs["embedder alone"] = out / "runs/dense.trec"
        runs[name] = out / "runs/reranked.trec"
    judged = read_folder(KEPT / "test")
    values = {name: by_query(judged, read_run(path)) for name, path in runs.items()}
    row: dict[str, Any] = {name: {k: round(v, 4) for k, v in mean(each).items()} for name, each in values.items()}
    first = next(iter(rerankers))
    row["changes"] = {
        f"{name} against {other}": compared(values[other][MAIN], values[name][MAIN])
        for name in rerankers
        for other in ("embedder alone", first)
        if name != other
    }
    return row


def keep(name: str, row: dict[str, Any]) -> None:
    """Put a row into the results."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows |= {"machine": platform.processor() or platform.machine(), name: row}
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(row, indent=1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["proof", "lora", "embedder"])
    parser.add_argument("--queries", type=int, default=150, help="test queries")
    parser.add_argument("--training-queries", type=int, default=1500)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--lists", type=int, default=300, help="training lists of the comparison with all weights")
    options = parser.parse_args()
    if not (KEPT / "test").exists():
        make_collections({"train": options.training_queries, "test": options.queries})
    stores()
    mined = (KEPT / "train", "--store", KEPT / "train-store", "--negatives", "5", "--max-length", "1024")
    if options.what == "proof":
        row = trained("tuned", "reranker", *mined, "--model", "demo", "--epochs", "1", "--held-out", "0.05")
        row["new modules"] = evaluated({"demo": "demo", "tuned": KEPT / "tuned/merged"}, options.candidates)
    elif options.what == "lora":
        few = _first_lists(options.lists)
        rest = ("--model", "demo", "--epochs", "1", "--max-length", "1024", "--held-out", "0.1")
        row = {
            "adapter": trained("few-lora", "reranker", few, *rest),
            "all weights": trained("few-full", "reranker", few, *rest, "--lora-rank", "0", "--learning-rate", "2e-5"),
        }
        tuned = {"few-lora": KEPT / "few-lora/merged", "few-full": KEPT / "few-full/merged"}
        row["new modules"] = evaluated(tuned, options.candidates)
    else:
        base = resolve("reranker", "demo", None, "huggingface").folder()
        row = trained("embedder", "embedder", *mined, "--model", base, "--epochs", "1")
    keep(options.what, row)


def _first_lists(count: int) -> Path:
    """A file of the first so many mined lists."""
    from qwen3_rag import Pipeline
    from qwen3_rag.training import mine_lists

    file = KEPT / f"lists-{count}.jsonl"
    if not file.exists():
        judged = read_folder(KEPT / "train").first(count)
        with Pipeline.open(KEPT / "train-store", reranker="none") as pipeline, file.open("w") as out:
            for one in mine_lists(pipeline, judged, negatives=5):
                texts = [text for text in one.documents if text not in one.positives]
                line = {"query": one.query, "positive": list(one.positives), "negative": texts}
                out.write(json.dumps(line) + "\n")
    return file


if __name__ == "__main__":
    main()
