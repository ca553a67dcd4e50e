"""The runs of an evaluation: each first stage, both stages, the curve over candidates, and sweeps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from qwen3_rag.errors import InvalidArgumentError, UnknownNameError
from qwen3_rag.evaluation.figures import MAIN, by_query, ceiling, compared, mean
from qwen3_rag.evaluation.judged import Judged
from qwen3_rag.evaluation.remembering import RememberingReranker
from qwen3_rag.evaluation.running import FEW, Searched, searched
from qwen3_rag.pipeline import Pipeline

__all__ = ["Study", "grid_of"]

CURVE = (10, 20, 50, 100, 200)


def _depth(value: Any) -> int | str:
    return "auto" if value == "auto" else int(value)


SWEPT: dict[str, Callable[[Any], Any]] = {"candidates": _depth, "blend": float, "mode": str, "instruction": str}
EXPECTED = {"candidates": "whole numbers or 'auto'", "blend": "numbers"}


@dataclass
class Study:
    """A pipeline and judged queries to search it with.

    Attributes:
        pipeline: The pipeline.
        judged: The queries.
        show_progress: Show bars on a terminal, log lines elsewhere.
        options: Of `Pipeline.search` for all reranked runs: mode and instruction.
    """

    pipeline: Pipeline
    judged: Judged
    show_progress: bool
    options: dict[str, Any]

    def first_stage(self, mode: str) -> Searched:
        """One first stage alone."""
        options = {"rerank": False, "mode": mode, "instruction": self.options["instruction"]}
        return searched(self.pipeline, self.judged, mode, self.show_progress, True, **options)

    def reranked(self, timed: bool = False, **options: Any) -> Searched:
        """Both stages."""
        return searched(self.pipeline, self.judged, "reranked", self.show_progress, timed, **self.options | options)

    def beside(self, full: Searched, candidates: int) -> dict[str, Any]:
        """The curve over the number of candidates, their ceiling, and what a pair costs.

        Times of reranking are dropped from `full` if pairs had been scored before: they are those of reading a file.
        """
        pairs = len(full.log_odds)
        reranker = self.pipeline.reranker
        known = max(0, pairs - reranker.new) if isinstance(reranker, RememberingReranker) else 0
        seconds = sum(full.seconds["rerank"]) / pairs if pairs and not known else None
        if known:
            del full.seconds["rerank"], full.seconds["total"]
        depths = [depth for depth in CURVE if depth < candidates]
        curve = {str(depth): self._mean(self.reranked(candidates=depth)) for depth in depths}
        return {
            "curve": curve | {str(candidates): self._mean(full)},
            "ceiling": mean(ceiling(self.judged, full.run)),
            "seconds per pair": seconds,
            "pairs scored before": known,
        }

    def adaptive(self, full: Searched) -> dict[str, Any]:
        """What `candidates="auto"` reads and finds, beside a fixed depth of the same mean number of pairs."""
        auto = self.reranked(candidates="auto")
        pairs = float(np.mean(auto.reread))
        depth = max(FEW, round(pairs))
        runs = {"auto": auto, "fixed": self.reranked(candidates=depth), "full": full}
        values = {name: by_query(self.judged, run.run)[MAIN] for name, run in runs.items()}
        return {
            "measure": MAIN,
            "pairs": pairs,
            "fixed depth": depth,
            **{name: float(np.mean(list(each.values()))) for name, each in values.items()},
            "against fixed": compared(values["fixed"], values["auto"]),
            "against full": compared(values["full"], values["auto"]),
        }

    def swept(self, grid: Sequence[dict[str, Any]], candidates: int) -> dict[str, Any]:
        """Every combination on one half of the queries; the best of them on the other."""
        names = sorted(self.judged.queries)
        halves = {"chosen on": names[::2], "measured on": names[1::2] or names}
        rows: list[dict[str, Any]] = []
        for options in grid:
            values = by_query(self.judged, self.reranked(**{"candidates": candidates} | options).run)
            rows.append({"options": options} | {half: mean(values, chosen)[MAIN] for half, chosen in halves.items()})
        best = max(rows, key=lambda row: row["chosen on"])
        return {"measure": MAIN, "rows": rows, "best": best}

    def _mean(self, stage: Searched) -> dict[str, float]:
        return mean(by_query(self.judged, stage.run))


def grid_of(sweep: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of the values.

    Raises:
        UnknownNameError: An option cannot be swept.
        InvalidArgumentError: A value is not of the option's type.
    """
    for name, values in sweep.items():
        if name not in SWEPT:
            raise UnknownNameError("option to sweep", name, list(SWEPT))
        for value in values:
            try:
                SWEPT[name](value)
            except ValueError:
                raise InvalidArgumentError(f"{name} is {value!r}; expected {EXPECTED[name]}") from None
    names = list(sweep)
    return (
        [
            {name: SWEPT[name](value) for name, value in zip(names, values, strict=True)}
            for values in product(*sweep.values())
        ]
        if sweep
        else []
    )
