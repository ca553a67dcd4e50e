"""The card that lies beside trained weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen3_rag.evaluation.figures import MAIN

__all__ = ["write_card"]


def write_card(folder: Path, report: Mapping[str, Any]) -> None:
    """Write README.md: base, data, settings, and the figures before and after."""
    settings, queries, change = report["settings"], report["queries"], report["change"]
    interval = change["interval"]
    certainty = (
        ""
        if interval is None
        else (f" (95 % interval {interval[0]:+.3f} to {interval[1]:+.3f}, paired t-test p = {change['p']:.2g})")
    )
    verdict = (
        f"Better than the base by {change['difference']:.3f}{certainty}."
        if report["improved"]
        else f"**Not better than the base**: {change['difference']:+.3f}{certainty}. Use the base."
    )
    before, after = report["before"], report["after"]
    rows = "\n".join(f"| {name} | {before[name]:.4f} | {after[name]:.4f} |" for name in before)
    shown = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    notes = "".join(f"\n- {note}" for note in report["notes"])
    measured = (
        "their judged lists, reordered"
        if report["kind"] == "reranker"
        else "exact search among the documents of all lists"
    )
    text = f"""---
base_model: {report["base"]}
library_name: {"peft" if settings["lora_rank"] else "transformers"}
tags: [{report["kind"]}, qwen3-rag]
---

# A fine-tuned {report["kind"]}

Made by `qwen3-rag train {report["kind"]}` from {report["base"]}. It reads the prompt of its base.

## Figures

{queries["test"]} test queries, which share no query and no relevant document with training or validation;
{measured}. {verdict}

| | before | after |
|---|---|---|
{rows}

The best of {report["steps"]} steps was step {report["best step"]}, chosen by {MAIN} of the validation queries
({queries["validation"]}).

## Data and settings

{queries["training"]} training queries with {report["documents"]} documents.{notes}

| | |
|---|---|
{shown}
"""
    (folder / "README.md").write_text(text, "utf-8")
