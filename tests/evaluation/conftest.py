"""A small judged collection, whose words mislead a first stage that knows only words."""

import json
from pathlib import Path

import pytest

WORDS = ("pump", "valve", "tide", "moon", "bread", "yeast", "violin", "string", "glacier", "ice", "orchard", "apple")


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    (folder / "qrels").mkdir(parents=True)
    corpus, queries, grades = [], [], ["query-id\tcorpus-id\tscore"]
    for number, word in enumerate(WORDS):
        other = WORDS[(number + 1) % len(WORDS)]
        corpus.append({"_id": f"d{number}", "title": "", "text": f"{other} {other} is the answer to {word} {other}"})
        corpus.append({"_id": f"e{number}", "title": "", "text": f"{word} {other} alone"})
        queries.append({"_id": f"q{number}", "text": f"{word} {other}"})
        grades += [f"q{number}\td{number}\t2", f"q{number}\te{number}\t0"]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)), "utf-8")
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)), "utf-8")
    (folder / "qrels/test.tsv").write_text("\n".join(grades) + "\n", "utf-8")
    return folder
