"""`report.json` and `report.html`: one page with tables and plots, and nothing to load from elsewhere."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from qwen3_rag.evaluation.figures import MAIN, MEASURES
from qwen3_rag.evaluation.plots import plots
from qwen3_rag.evaluation.running import Searched

__all__ = ["write_report"]

EXCERPT = 400  # characters of a passage
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
    "details{margin:.4em 0}.note{color:#8a5a00}.text{color:#555;display:block}"
)


def write_report(folder: Path, report: Mapping[str, Any], reranked: Searched | None) -> None:
    """Write both files, each complete or not there, and the plots as files of their own."""
    pictures = plots(report, reranked)
    pages = {f"plots/{heading.lower().replace(' ', '-')}.svg": picture for heading, picture in pictures.items()} | {
        "report.html": _page(report, pictures),
        "report.json": json.dumps(report, indent=1, ensure_ascii=False) + "\n",
    }
    (folder / "plots").mkdir(exist_ok=True)
    for name, content in pages.items():
        draft = (folder / name).with_name(f".{Path(name).name}")
        draft.write_text(content, "utf-8")
        draft.replace(folder / name)


def _page(report: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    title = f"{report['collection']}: {report['queries']} queries"
    parts = [f"<h1>{escape(title)}</h1>"]
    parts += [f'<p class="note">{escape(note)}</p>' for note in report["notes"]]
    rows = [[name, *(f"{values[m]:.4f}" for m in MEASURES)] for name, values in report["runs"].items()]
    if "ceiling" in report:
        rows.append(["best order of these candidates", *(f"{report['ceiling'][m]:.4f}" for m in MEASURES)])
    parts += ["<h2>Quality</h2>", _table(["", *MEASURES], rows), *(_comparison(c) for c in report["comparisons"])]
    for heading, picture in pictures.items():
        parts.append(f"<h2>{escape(heading)}</h2>{picture}")
    points = [(stage, point) for stage in ("embed", "retrieve", "rerank", "total") for point in ("p50", "p95")]
    latency = [
        [name, *(f"{stages[stage][point]:.1f}" if stage in stages else "–" for stage, point in points)]
        for name, stages in report["latency ms"].items()
    ]
    if latency:
        heads = [f"{stage} {point}" for stage, point in points]
        parts += ["<h2>Milliseconds a query</h2>", _table(["", *heads], latency)]
    if report.get("adaptive"):
        parts += ['<h2>Adaptive depth, candidates="auto"</h2>', *_adaptive(report["adaptive"])]
    if report.get("sweep"):
        parts += ["<h2>Sweep</h2>", _sweep(report["sweep"])]
    for name, heading in (("best", "Queries that the reranker helped most"), ("worst", "… and hurt most")):
        if report[name]:
            parts += [f"<h2>{heading}</h2>", *(_query(row) for row in report[name])]
    parts += ["<h2>Models</h2>", f"<pre>{escape(json.dumps(report.get('models', {}), indent=1))}</pre>"]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def _comparison(each: Mapping[str, Any]) -> str:
    text = f"{each['second']} against {each['first']}: {each['difference']:+.4f} {each['measure']}"
    if each["p"] is not None:
        low, high = each["interval"]
        text += f" (95 % interval {low:+.4f} to {high:+.4f}, paired t-test p = {each['p']:.2g})"
    return f"<p>{escape(text)}; {each['wins']} wins, {each['losses']} losses, {each['ties']} ties</p>"


def _adaptive(found: Mapping[str, Any]) -> list[str]:
    rows = [
        ["auto", f"{found['pairs']:.1f}", f"{found['auto']:.4f}"],
        ["fixed", str(found["fixed depth"]), f"{found['fixed']:.4f}"],
        ["full", "100", f"{found['full']:.4f}"],
    ]
    changes = [
        _comparison({"first": name, "second": "auto", "measure": found["measure"]} | found[f"against {name}"])
        for name in ("fixed", "full")
    ]
    return [_table(["depth", "pairs a query", found["measure"]], rows), *changes]


def _sweep(sweep: Mapping[str, Any]) -> str:
    names = list(sweep["rows"][0]["options"])
    rows = [
        [*(str(row["options"][name]) for name in names), f"{row['chosen on']:.4f}", f"{row['measured on']:.4f}"]
        for row in sweep["rows"]
    ]
    best = ", ".join(f"{name}={value}" for name, value in sweep["best"]["options"].items())
    said = f"Best on one half of the queries: {best}; {MAIN} on the other half: {sweep['best']['measured on']:.4f}"
    return _table([*names, "chosen on", "measured on"], rows) + f"<p>{escape(said)}</p>"


def _query(row: Mapping[str, Any]) -> str:
    hits = "".join(
        f"<li>{escape(hit['document'])} (grade {hit['grade']})"
        f'<span class="text">{escape(hit["text"][:EXCERPT])}</span></li>'
        for hit in row["hits"]
    )
    head = f"{row['before']:.3f} → {row['after']:.3f} {row['query']}"
    return f"<details><summary>{escape(head)}</summary><ol>{hits}</ol></details>"
