"""One evaluation from judged queries to a report: what the first stage finds, what the reranker adds, what it costs."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from qwen3_rag.arguments import as_path, at_least
from qwen3_rag.errors import InvalidArgumentError, JudgementError
from qwen3_rag.evaluation.figures import check_installed
from qwen3_rag.evaluation.judged import Judged, Run, read_folder, read_judged, read_run, write_run
from qwen3_rag.evaluation.remembering import RememberingReranker
from qwen3_rag.evaluation.report import write_report
from qwen3_rag.evaluation.running import DEPTH, Searched
from qwen3_rag.evaluation.study import Study, grid_of
from qwen3_rag.evaluation.summary import summary
from qwen3_rag.index.database import FILE
from qwen3_rag.models.cascade import Cascade
from qwen3_rag.models.protocols import EmbedderProtocol, RerankerProtocol
from qwen3_rag.pipeline import Pipeline

__all__ = ["evaluate"]

FIRST_STAGES = ("dense", "lexical", "hybrid")


def evaluate(
    data: str | Path,
    out: str | Path,
    *,
    store: str | Path | None = None,
    embedder: str | EmbedderProtocol | None = None,
    reranker: str | RerankerProtocol | None = None,
    queries: str | Path | None = None,
    runs: Sequence[str | Path] = (),
    limit: int | None = None,
    candidates: int = 100,
    mode: str = "dense",
    instruction: str | None = None,
    blend: float = 0.0,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    trust_urls: bool = False,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Measure a pipeline on judged queries, and write `report.json`, `report.html` and TREC runs to `out`.

    A run that is interrupted continues: passages that are embedded and pairs that are scored stay in `out`. A report
    is written at the end only.

    Args:
        data: A folder in BEIR layout (corpus.jsonl, queries.jsonl, qrels/*.tsv), or a file of judgements.
        out: Folder of the report; created if it does not exist.
        store: An existing store to search; None indexes the corpus into `out/store`.
        embedder: For a new store. With `store`, it has to be the one that made it.
        reranker: In place of the store's; "none" measures the first stages alone.
        queries: File of queries; None is `queries.jsonl` in `data`.
        runs: Files of further runs in TREC's format, to be measured too.
        limit: Only the first so many judged queries.
        candidates: Passages that the reranker scores.
        mode: First stage of the reranked runs.
        instruction: For both models.
        blend: As in `Pipeline.search`.
        sweep: Values to try of `candidates`, `blend`, `mode` and `instruction`; chosen on one half of the queries and
            reported on the other.
        trust_urls: As in `Pipeline.open`.
        show_progress: Show bars on a terminal, log lines elsewhere.

    Returns:
        What `report.json` holds.

    Raises:
        JudgementError: Queries, judgements or a run cannot be used; names file and line.
        MissingDependencyError: The extra `eval` is not installed.
    """
    check_installed()
    at_least(candidates, 1, "candidates")
    grid = grid_of(sweep or {})
    judged, corpus = _judged(as_path(data, "data"), queries)
    judged = judged.first(limit)
    folder = as_path(out, "out")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("report.json", "report.html"):
        (folder / name).unlink(missing_ok=True)  # of an earlier run; this one is not finished
    others = {Path(path).stem: read_run(Path(path)) for path in runs}
    if store is None and corpus is None and others:
        return _reported(folder, judged, {}, others, {"candidates": candidates}, [])
    with _opened(folder, store, corpus, embedder, reranker, trust_urls) as pipeline:
        if corpus is not None and store is None:
            pipeline.index(corpus, show_progress=show_progress)
        notes = _missing(pipeline, judged)
        study = Study(pipeline, judged, show_progress, {"mode": mode, "instruction": instruction, "blend": blend})
        stages = {name: study.first_stage(name) for name in FIRST_STAGES}
        extra: dict[str, Any] = {"models": _models(pipeline), "mode": mode, "candidates": candidates}
        if pipeline.reranker is not None:
            stages["reranked"] = study.reranked(timed=True, candidates=candidates)
            extra |= study.beside(stages["reranked"], candidates)
            if known := extra["pairs scored before"]:
                notes.append(f"{known} pairs had been scored before, so times of reranking are not shown")
            extra["adaptive"] = study.adaptive(stages["reranked"]) if candidates == DEPTH else None
            extra["sweep"] = study.swept(grid, candidates) if grid else None
    return _reported(folder, judged, stages, others, extra, notes)


def _judged(data: Path, queries: str | Path | None) -> tuple[Judged, Path | None]:
    """The judged queries, and the corpus if the data has one."""
    if data.is_file():
        if queries is None:
            raise InvalidArgumentError(f"{data} is a file of judgements; expected queries= as well")
        return read_judged(as_path(queries, "queries"), data, data.stem), None
    corpus = data / "corpus.jsonl"
    judged = read_folder(data, None if queries is None else as_path(queries, "queries"))
    return judged, corpus if corpus.is_file() else None


@contextmanager
def _opened(
    folder: Path,
    store: str | Path | None,
    corpus: Path | None,
    embedder: str | EmbedderProtocol | None,
    reranker: str | RerankerProtocol | None,
    trust_urls: bool,
) -> Iterator[Pipeline]:
    """The pipeline, whose reranker scores no pair twice."""
    place = folder / "store" if store is None else as_path(store, "store")
    if store is None and not (place / FILE).exists():
        if corpus is None:
            raise InvalidArgumentError("the data has no corpus.jsonl; expected store= with the documents, or runs=")
        models: dict[str, Any] = {"embedder": embedder, "reranker": reranker}
        Pipeline.create(place, **{name: model for name, model in models.items() if model is not None}).close()
    with Pipeline.open(place, embedder, reranker, trust_urls=trust_urls) as pipeline:
        second = pipeline.reranker
        # The scores of a cascade's pair depend on the other candidates.
        if second is None or isinstance(second, Cascade):
            yield pipeline
            return
    with (
        closing(RememberingReranker(second, folder / "scores.db")) as remembering,
        Pipeline.open(place, pipeline.embedder, remembering, trust_urls=trust_urls) as again,
    ):
        yield again


def _missing(pipeline: Pipeline, judged: Judged) -> list[str]:
    """A note on relevant documents that the store does not have.

    Raises:
        JudgementError: It has none of them.
    """
    stored = {entry.id for entry in pipeline.documents()}
    missing = sorted(judged.documents - stored)
    if len(missing) == len(judged.documents):
        raise JudgementError(
            f"the store has none of the {len(missing)} documents that are judged relevant, such as {missing[0]!r}; "
            f"expected the collection {judged.name!r}"
        )
    return [f"{len(missing)} relevant documents are not in the store, the first is {missing[0]!r}"] if missing else []


def _models(pipeline: Pipeline) -> dict[str, Any]:
    info = pipeline.info()
    return {stage: info[stage] for stage in ("embedder", "reranker")}


def _reported(
    folder: Path,
    judged: Judged,
    stages: Mapping[str, Searched],
    others: Mapping[str, Run],
    extra: Mapping[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Measure the runs, and write them and the report."""
    report = summary(judged, stages, others, extra, notes)
    shutil.rmtree(folder / "runs", ignore_errors=True)
    (folder / "runs").mkdir()
    for name, run in ({name: stage.run for name, stage in stages.items()} | dict(others)).items():
        write_run(run, folder / "runs" / f"{name}.trec", name)
    write_report(folder, report, stages.get("reranked"))
    return report
