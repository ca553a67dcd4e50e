"""What data/demo promises of itself."""

import csv
import json
import re
from collections import Counter

from conftest import ROOT

FOLDER = ROOT / "data/demo"
CORPUS = {r["_id"]: r for r in map(json.loads, (FOLDER / "corpus.jsonl").read_text("utf-8").splitlines())}
QUERIES = {r["_id"]: r for r in map(json.loads, (FOLDER / "queries.jsonl").read_text("utf-8").splitlines())}
with (FOLDER / "qrels/test.tsv").open(encoding="utf-8") as table:
    QRELS = [(r["query-id"], r["corpus-id"], int(r["score"])) for r in csv.DictReader(table, delimiter="\t")]


def test_it_is_as_large_and_varied_as_its_readme_says() -> None:
    languages = Counter(r["metadata"]["lang"] for r in CORPUS.values())
    kinds = Counter(r["metadata"]["kind"] for r in CORPUS.values())
    assert len(CORPUS) >= 240
    assert len(languages) >= 9
    assert sum(languages.values()) - languages["en"] >= len(CORPUS) / 5
    assert kinds["code"] >= len(CORPUS) / 5
    assert len(QUERIES) >= 80
    assert sum(q["metadata"]["overlap_misleads"] for q in QUERIES.values()) >= len(QUERIES) / 3
    assert sum(q["metadata"]["crosses_languages"] for q in QUERIES.values()) >= len(QUERIES) / 5
    readme = (FOLDER / "README.md").read_text("utf-8")
    grades = Counter(grade for *_, grade in QRELS)
    for figure in (len(CORPUS), len(QUERIES), f"{len(QRELS):,}", f"{grades[2]} / {grades[1]} / {grades[0]}"):
        assert str(figure) in readme


def test_passages_have_40_to_150_words() -> None:
    for record in CORPUS.values():
        if record["metadata"]["lang"] in ("zh", "ja"):
            assert 90 <= len(record["text"]) <= 300, record["_id"]
        else:
            assert 40 <= len(record["text"].split()) <= 150, record["_id"]


def test_judgements_name_what_is_there_and_every_query_has_an_answer() -> None:
    assert {query for query, *_ in QRELS} == set(QUERIES)
    assert {passage for _, passage, _ in QRELS} <= set(CORPUS)
    assert len({(query, passage) for query, passage, _ in QRELS}) == len(QRELS)
    assert {query for query, _, grade in QRELS if grade > 0} == set(QUERIES)


def test_the_python_passages_compile() -> None:
    programs = [r for r in CORPUS.values() if r["metadata"].get("language") == "python"]
    assert len(programs) == 28
    for record in programs:
        compile(record["text"], record["_id"], "exec")
        assert re.search(r'"""|\'\'\'', record["text"]), f"{record['_id']} has no docstring"
