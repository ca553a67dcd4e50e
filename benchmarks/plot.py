"""Plot benchmark results: `benchmarks/plot.py [results/bench-….json]` writes docs/assets/benchmark.{png,svg}."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
OURS, PEER = "#1f6f5c", "#b9c2c0"


def bars(axes: Any, systems: dict[str, dict[str, Any]], title: str) -> None:
    """Seconds of each system, shortest on top; ours in colour."""
    ordered = sorted(systems.items(), key=lambda item: -item[1]["seconds"])
    names = [
        name.replace("native", "qwen3-rag") + (f" ({row['note']})" if "note" in row else "") for name, row in ordered
    ]
    seconds = [row["seconds"] for _, row in ordered]
    colours = [OURS if name.startswith("qwen3-rag") else PEER for name in names]
    bars = axes.barh(names, seconds, color=colours)
    axes.bar_label(bars, [f"{value:.1f} s" for value in seconds], padding=4)
    axes.set_xlim(0, max(seconds) * 1.16)
    axes.set_xlabel("seconds, less is better")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def lengths(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Candidate tokens a second against the documents' length."""
    for name in rows[0]["systems"]:
        points = [
            (row["tokens each"], row["candidate tokens"] / row["systems"][name]["seconds"])
            for row in rows
            if name in row["systems"]
        ]
        own = name.startswith("native")
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            color=OURS if own else None,
            alpha=1 if own else 0.6,
            label=name.replace("native", "qwen3-rag"),
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks([row["tokens each"] for row in rows], [str(row["tokens each"]) for row in rows])
    axes.set_ylim(0)
    axes.set_xlabel("tokens of a document")
    axes.set_title("Candidate tokens a second", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def main() -> None:
    """Draw what the newest results hold."""
    paths = sys.argv[1:] or sorted(
        map(str, (HERE / "results").glob("bench-*.json")), key=lambda p: Path(p).stat().st_mtime
    )
    results = json.loads(Path(paths[-1]).read_text())
    both = "lengths" in results
    figure, axes = plt.subplots(1, 1 + both, figsize=(12 if both else 8, 4.2), squeeze=False, layout="constrained")
    rerank, machine = results["rerank"], results["machine"]
    title = f"Reranking {rerank['documents']} abstracts ({rerank['candidate tokens']:,} tokens) for one query"
    bars(axes[0, 0], rerank["systems"], title)
    if both:
        lengths(axes[0, 1], results["lengths"])
    figure.suptitle(
        f"Qwen3-Reranker-0.6B's architecture, {machine['cores']} cores {machine['processor']}, "
        f"{', '.join(machine['bf16']) or 'no bf16'}, {machine['date']}",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    for ending in ("png", "svg"):
        figure.savefig(HERE.parent / f"docs/assets/benchmark.{ending}", dpi=130)


if __name__ == "__main__":
    main()
