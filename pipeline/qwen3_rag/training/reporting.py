"""What a run leaves behind: weights, a card and a report that says whether it helped."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qwen3_rag.evaluation.figures import MAIN, ByQuery, compared, mean
from qwen3_rag.training.card import write_card
from qwen3_rag.training.settings import Settings
from qwen3_rag.training.splitting import Split

__all__ = ["finish"]


def finish(
    folder: Path,
    kind: str,
    base: str,
    settings: Settings,
    parts: Split,
    trained: Any,
    before: ByQuery,
    after: ByQuery,
    outcome: dict[str, Any],
) -> dict[str, Any]:
    """Write weights, card and `report.json`; returns the report."""
    change = compared(before[MAIN], after[MAIN])
    report: dict[str, Any] = {
        "kind": kind,
        "base": base,
        "settings": json.loads(json.dumps(asdict(settings))),
        "queries": {name: len(getattr(parts, name)) for name in ("training", "validation", "test")},
        "documents": sum(len(one.documents) for one in parts.training),
        **outcome,
        "before": mean(before),
        "after": mean(after),
        "change": change,
        "improved": change["difference"] > 0,
        "notes": list(parts.notes),
    }
    trained.save(folder)
    write_card(folder, report)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return report
