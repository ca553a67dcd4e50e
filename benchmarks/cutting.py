"""Does cutting along structure help? Documentation, cut in several ways, searched by questions with known answers.

    apt install python3.11-doc
    python benchmarks/cutting.py --docs /usr/share/doc/python3.11/html     # about an hour on two cores

Questions and where their answers stand come from the documentation itself: terms of its index point to a section,
questions of its FAQ and headings name theirs. A passage is relevant if half of it, or half of the section, lies in the
section. Compared: passages along headings, tables and code against plain text cut at sentences; title and headings
before the embedded text or not; two sizes and two overlaps. First stage only, exact, with the demo embedder.
nDCG and recall count passages, so they do not compare sizes; `context` does: of the first 8,000 characters of results
(about 2,000 tokens, a small prompt), or of the section if it is shorter, the share that is the section's own text.
Results: benchmarks/results/cutting.json and cutting.md.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import Qrel, R, ScoredDoc, nDCG
from numpy.typing import NDArray
from selectolax.lexbor import LexborHTMLParser

from qwen3_rag import Embedder
from qwen3_rag.ingest.chunking import chunk, token_starts
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.ingest.readers import read
from qwen3_rag.records import heading_path, passage_text

HERE = Path(__file__).parent
FOLDERS = ("tutorial", "faq", "howto", "reference")
MOST = 120  # questions of a kind
SECTION = "section, div.section"
MEASURES = {"nDCG@10": nDCG @ 10, "recall@100": R @ 100}
CONTEXT = 8_000  # characters


@dataclass(frozen=True)
class Question:
    """A text, its kind, and the page and characters where its answer stands."""

    text: str
    kind: str
    page: str
    start: int
    stop: int


def headings_by_anchor(page: Path) -> dict[str, str]:
    """For each id of a page, the heading of the innermost section around it."""
    found: dict[str, str] = {}
    tree = LexborHTMLParser(page.read_text("utf-8"))
    for section in tree.css(SECTION):
        heading = section.css_first("h1, h2, h3, h4, h5")
        if heading is None:
            continue
        label = " ".join(heading.text().split()).rstrip("¶").strip()
        for node in [section, *section.css("[id]")]:  # an inner section comes later and overwrites
            if node.attributes.get("id"):
                found[node.attributes["id"] or ""] = label
    return found


def spans_by_heading(parsed: Parsed) -> dict[str, tuple[int, int]]:
    """Characters of each section that has a heading of its own, with those below it."""
    spans: dict[str, tuple[int, int]] = {}
    for section in parsed.sections:
        for heading in section.headings:
            start, _ = spans.get(heading, (section.start, 0))
            spans[heading] = (start, section.stop)
    return spans


def index_terms(docs: Path) -> Iterator[tuple[str, str, str]]:
    """Term, page and anchor of the index's entries that are words, not names of functions."""
    for page in sorted(docs.glob("genindex-*.html")):
        for link in LexborHTMLParser(page.read_text("utf-8")).css("td > ul > li > a"):
            target, _, anchor = (link.attributes.get("href") or "").partition("#")
            term = " ".join(link.text().split())
            if target.split("/")[0] in FOLDERS and re.fullmatch(r"[A-Za-z][A-Za-z -]{3,40}", term):
                yield term, target, anchor


def questions_of(docs: Path, pages: dict[str, Parsed]) -> list[Question]:
    """Questions with known answers, at most `MOST` of a kind, chosen by a fixed seed."""
    spans = {name: spans_by_heading(parsed) for name, parsed in pages.items()}
    anchors = {name: headings_by_anchor(docs / name) for name in pages}
    kinds: dict[str, list[Question]] = {"index": [], "faq": [], "heading": []}
    for term, name, anchor in index_terms(docs):
        heading = anchors.get(name, {}).get(anchor, "")
        if heading in spans.get(name, {}):
            kinds["index"].append(Question(term, "index", name, *spans[name][heading]))
    for name, of_page in spans.items():
        kind = "faq" if name.startswith("faq/") else "heading"
        for heading, span in of_page.items():
            text = re.sub(r"^[\d.]+\s*", "", heading)
            if len(text.split()) >= (3 if kind == "faq" else 2):
                kinds[kind].append(Question(text, kind, name, *span))
    generator = np.random.default_rng(0)
    return [q for each in kinds.values() for q in generator.permutation(np.array(each, dtype=object))[:MOST]]


@dataclass(frozen=True)
class Setting:
    """One way of cutting."""

    structure: bool
    headings: bool
    size: int
    overlap: int

    def __str__(self) -> str:
        how = "structure" if self.structure else "plain"
        return f"{how}, {'with' if self.headings else 'without'} headings, {self.size} tokens, overlap {self.overlap}"


class Vectors:
    """Vectors of texts, each embedded once."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder, self.known = embedder, dict[str, NDArray[np.float32]]()

    def of(self, texts: list[str]) -> NDArray[np.float32]:
        """Unit rows (n, dimensions)."""
        if new := list(dict.fromkeys(text for text in texts if text not in self.known)):
            self.known |= dict(zip(new, self.embedder.encode_document(new, show_progress=True), strict=True))
        return np.stack([self.known[text] for text in texts])


def context_share(question: Question, ranked: Iterable[tuple[str, int, int]]) -> float:
    """Characters of the answer within the first `CONTEXT` characters of `ranked`, over the most there could be."""
    left, inside = CONTEXT, set[int]()
    for name, start, stop in ranked:
        stop = min(stop, start + left)
        left -= stop - start
        if name == question.page:
            inside.update(range(max(start, question.start), min(stop, question.stop)))
        if left <= 0:
            break
    return len(inside) / min(CONTEXT, question.stop - question.start)


def measured(
    setting: Setting, pages: dict[str, Parsed], questions: list[Question], vectors: Vectors
) -> dict[str, object]:
    """Passages, and the measures of each kind of question."""
    cuts, texts = [], []
    for name, parsed in pages.items():
        document = parsed.document
        whole = parsed if setting.structure else Parsed(document)
        for cut in chunk(whole, token_starts(vectors.embedder, document.text), setting.size, setting.overlap):
            cuts.append((name, cut.start, cut.stop))
            path = heading_path(cut.headings, cut.row)
            texts.append(passage_text(document.text[cut.start : cut.stop], document.title, path, setting.headings))
    rows = vectors.of(texts)
    queries = vectors.embedder.encode_query([question.text for question in questions])
    scores = queries @ rows.T
    qrels, run, shares = [], [], list[float]()
    for number, question in enumerate(questions):
        for place, (name, start, stop) in enumerate(cuts):
            inside = min(stop, question.stop) - max(start, question.start)
            if name == question.page and 2 * inside >= min(stop - start, question.stop - question.start):
                qrels.append(Qrel(f"{question.kind}-{number}", str(place), 1))
        best = np.argsort(-scores[number])[:100]
        shares.append(context_share(question, (cuts[place] for place in best)))
        for place in best:
            run.append(ScoredDoc(f"{question.kind}-{number}", str(place), float(scores[number, place])))
    figures: dict[str, object] = {"passages": len(cuts)}
    by_query = list(ir_measures.iter_calc(list(MEASURES.values()), qrels, run))
    for kind in dict.fromkeys(question.kind for question in questions):
        for label, measure in MEASURES.items():
            values = [m.value for m in by_query if m.measure == measure and m.query_id.startswith(f"{kind}-")]
            figures[f"{kind} {label}"] = round(float(np.mean(values)), 4)
        of_kind = [share for share, question in zip(shares, questions, strict=True) if question.kind == kind]
        figures[f"{kind} context"] = round(float(np.mean(of_kind)), 4)
    return figures


def main() -> None:
    """Measure every setting and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=Path("/usr/share/doc/python3.11/html"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 400])
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 50])
    options = parser.parse_args()
    files = [path for folder in FOLDERS for path in sorted((options.docs / folder).glob("*.html"))]
    if not files:
        sys.exit(f"{options.docs} has none of {', '.join(FOLDERS)}; expected the HTML of Python's documentation")
    pages = {str(path.relative_to(options.docs)): parsed for path in files for parsed in read(path)}
    questions = questions_of(options.docs, pages)
    counts = {kind: sum(q.kind == kind for q in questions) for kind in ("index", "faq", "heading")}
    print(f"{len(pages)} pages, {counts}", flush=True)
    vectors = Vectors(Embedder("demo"))
    results = {}
    for structure, headings, size, overlap in product((True, False), (True, False), options.sizes, options.overlaps):
        setting = Setting(structure, headings, size, overlap)
        results[str(setting)] = measured(setting, pages, questions, vectors)
        print(f"{setting}: {json.dumps(results[str(setting)])}", flush=True)
    (HERE / "results/cutting.json").write_text(
        json.dumps({"pages": len(pages), "questions": counts, "settings": results}, indent=1) + "\n"
    )
    names = list(next(iter(results.values())))
    lines = [f"| cut | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {name} | {' | '.join(str(row[key]) for key in names)} |" for name, row in results.items()]
    (HERE / "results/cutting.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
