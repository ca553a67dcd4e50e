"""Plots of a report, as SVG: quality against candidates and seconds, scores of relevant and other passages, latency."""

from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any

import numpy as np

from qwen3_rag.evaluation.figures import MAIN
from qwen3_rag.evaluation.running import Searched

__all__ = ["plots", "reliability_diagram"]

BLUE, ORANGE, GREY = "#2463a8", "#d9822b", "#888888"


def plots(report: Mapping[str, Any], reranked: Searched | None) -> dict[str, str]:
    """Heading to SVG; without a reranker, there is nothing to draw."""
    if reranked is None:
        return {}
    drawn = {"Quality and the number of candidates": _svg(lambda axes: _candidates(axes, report))}
    if report.get("seconds per pair"):
        drawn["Quality and time"] = _svg(lambda axes: _seconds(axes, report))
    drawn["Log-odds of relevant and other passages"] = _svg(lambda axes: _scores(axes, reranked))
    if "rerank" in report["latency ms"]["reranked"]:
        drawn["Time of each stage"] = _svg(lambda axes: _latency(axes, report))
    return drawn


def reliability_diagram(bins: Mapping[str, list[dict[str, Any]]]) -> str:
    """Share of relevant passages against what was predicted, before and after calibration, as SVG."""
    return _svg(lambda axes: _reliability(axes, bins))


def _reliability(axes: Any, bins: Mapping[str, list[dict[str, Any]]]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as predicted")
    labels = {"before": "score, before", "after": "probability, after"}
    for name, color in (("before", ORANGE), ("after", BLUE)):
        points = [(each["predicted"], each["relevant"], each["pairs"]) for each in bins[name]]
        x, y, counts = zip(*points, strict=True)
        axes.plot(x, y, "-", color=color, linewidth=1, alpha=0.6)
        axes.scatter(x, y, s=[12 + 14 * np.log10(count) for count in counts], color=color, label=labels[name])
    axes.set(xlabel="predicted (larger points: more passages)", ylabel="share that is relevant")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(frameon=False)


def _svg(draw: Callable[[Any], None]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    file = StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _candidates(axes: Any, report: Mapping[str, Any]) -> None:
    depths = [int(depth) for depth in report["curve"]]
    axes.plot(depths, [values[MAIN] for values in report["curve"].values()], "o-", color=BLUE, label="reranked")
    axes.axhline(report["runs"][report["mode"]][MAIN], color=GREY, linestyle="--", label=f"{report['mode']} alone")
    axes.set(xlabel="candidates", ylabel=MAIN, xticks=depths)
    axes.legend(frameon=False)


def _seconds(axes: Any, report: Mapping[str, Any]) -> None:
    first = report["latency ms"][report["mode"]]["total"]["p50"] / 1000
    seconds = [first + int(depth) * report["seconds per pair"] for depth in report["curve"]]
    quality = [values[MAIN] for values in report["curve"].values()]
    axes.plot(seconds, quality, "o-", color=BLUE, label="reranked")
    axes.plot([first], [report["runs"][report["mode"]][MAIN]], "s", color=GREY, label=f"{report['mode']} alone")
    for x, y, depth in zip(seconds, quality, report["curve"], strict=True):
        axes.annotate(depth, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.set(xlabel="seconds a query", ylabel=MAIN)
    axes.legend(frameon=False)


def _scores(axes: Any, reranked: Searched) -> None:
    values = np.array([value for value, _ in reranked.log_odds])
    relevant = np.array([grade > 0 for _, grade in reranked.log_odds], dtype=bool)
    bins = np.linspace(values.min() - 1e-6, values.max() + 1e-6, 41)
    for chosen, color, label in ((~relevant, GREY, "other"), (relevant, ORANGE, "relevant")):
        weights = np.full(chosen.sum(), 1 / max(chosen.sum(), 1))
        axes.hist(values[chosen], bins, weights=weights, color=color, alpha=0.6, label=f"{label} ({chosen.sum()})")
    axes.set(xlabel="log-odds", ylabel="share")
    axes.legend(frameon=False)


def _latency(axes: Any, report: Mapping[str, Any]) -> None:
    stages = ["embed", "retrieve", "rerank"]
    times = report["latency ms"]["reranked"]
    for offset, point, color in ((-0.2, "p50", BLUE), (0.2, "p95", ORANGE)):
        axes.barh(
            np.arange(len(stages)) + offset, [times[stage][point] for stage in stages], 0.4, color=color, label=point
        )
    axes.set(yticks=range(len(stages)), yticklabels=stages, xlabel="milliseconds", xscale="log")
    axes.invert_yaxis()
    axes.legend(frameon=False)
