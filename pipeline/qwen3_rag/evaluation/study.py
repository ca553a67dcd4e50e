"""The runs of an evaluation: each first stage, both stages, the curve over candidates, and sweeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from qwen3_rag.errors import InvalidArgumentError, UnknownNameError
from qwen3_rag.evaluation.figures import MAIN, by_query, ceiling, mean
from qwen3_rag.evaluation.judged import Judged
from qwen3_rag.evaluation.remembering import RememberingReranker
from qwen3_rag.evaluation.running import Searched, searched
from qwen3_rag.pipeline import Pipeline

__all__ = ["Study", "grid_of"]

CURVE = (10, 20, 50, 100, 200)
SWEPT = {"candidates": int, "blend": float, "mode": str, "instruction": str}


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
        """The curve over the number of candidates, their ceiling, and what a pair costs."""
        pairs = len(full.log_odds)
        reranker = self.pipeline.reranker
        measured = not isinstance(reranker, RememberingReranker) or reranker.new >= pairs
        depths = [depth for depth in CURVE if depth < candidates]
        curve = {str(depth): self._mean(self.reranked(candidates=depth)) for depth in depths}
        return {
            "curve": curve | {str(candidates): self._mean(full)},
            "ceiling": mean(ceiling(self.judged, full.run)),
            "seconds per pair": sum(full.seconds["rerank"]) / pairs if measured and pairs else None,
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
                raise InvalidArgumentError(f"{name} is {value!r}; expected {SWEPT[name].__name__} values") from None
    names = list(sweep)
    return (
        [
            {name: SWEPT[name](value) for name, value in zip(names, values, strict=True)}
            for values in product(*sweep.values())
        ]
        if sweep
        else []
    )
