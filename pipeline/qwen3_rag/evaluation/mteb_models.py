"""The pipeline, the embedder and the reranker as models of `mteb`, each with the task's own instruction.

mteb calls them by its protocols: `SearchProtocol` for the pipeline, `EncoderProtocol` and `CrossEncoderProtocol` for
the models alone. Nothing here imports mteb before one of them is used.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError, MissingDependencyError
from qwen3_rag.models.protocols import EmbedderProtocol, RerankerProtocol
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.records import Document, passage_text

__all__ = ["MtebEmbedder", "MtebPipeline", "MtebReranker"]

Batches = Iterable[Mapping[str, Any]]


def _meta(name: str, revision: str | None) -> Any:
    try:
        from mteb.models import ModelMeta
    except ImportError as error:
        raise MissingDependencyError("mteb", "the MTEB benchmarks", "pip install 'qwen3-rag[mteb]'") from error
    # mteb wants an owner and a name.
    return ModelMeta.create_empty(
        {"name": name if "/" in name else f"qwen3-rag/{name}", "revision": revision or "none"}
    )


def _instruction(task: Any) -> str | None:
    """The task's own instruction for queries; None without one."""
    prompt = getattr(task, "prompt", None)
    return prompt.get("query") if isinstance(prompt, Mapping) else prompt


class MtebPipeline:
    """Both stages as mteb's search model: indexes a task's corpus into a store, and searches it.

    Args:
        folder: Where stores are created, one for each task, subset and split; an existing one is replaced.
        embedder: For `Pipeline.create`.
        reranker: For `Pipeline.create`; None for the first stage alone.
        candidates: Passages that the reranker scores.
        **options: For `Pipeline.create`, such as `chunk_tokens`.
    """

    def __init__(
        self,
        folder: str | Path,
        embedder: str | EmbedderProtocol = "0.6b",
        reranker: str | RerankerProtocol | None = "0.6b",
        *,
        candidates: int = 100,
        **options: Any,
    ) -> None:
        self.folder, self.candidates = Path(folder), candidates
        self.embedder, self.reranker, self.options = embedder, reranker, options
        self.pipeline: Pipeline | None = None
        self._texts: dict[str, str] = {}

    @property
    def mteb_model_meta(self) -> Any:
        """Names of both models."""
        names = (
            model if isinstance(model, str) else str(model.describe().get("model"))
            for model in (self.embedder, self.reranker)
            if model is not None
        )
        return _meta("+".join(Path(name).name for name in names), None)

    def index(
        self, corpus: Iterable[Mapping[str, Any]], *, task_metadata: Any, hf_split: str, hf_subset: str, **_: Any
    ) -> None:
        """Index a corpus of rows with `id`, `text` and maybe `title`."""
        self.close()
        place = self.folder / f"{task_metadata.name}-{hf_subset}-{hf_split}"
        if place.exists():
            shutil.rmtree(place)
        self.pipeline = Pipeline.create(place, self.embedder, self.reranker, **self.options)
        documents = [Document(row["text"], id=row["id"], title=row.get("title") or None) for row in corpus]
        self._texts = {
            document.id: passage_text(document.text, document.title) for document in documents if document.id
        }
        self.pipeline.add(documents)

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        top_k: int,
        top_ranked: Mapping[str, list[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """The best documents of each query, with scores that fall with the rank.

        Raises:
            InvalidArgumentError: `index` was not called before.
        """
        if self.pipeline is None:
            raise InvalidArgumentError("search was called before index; expected an indexed corpus")
        rows = list(queries)
        found: dict[str, dict[str, float]] = {}
        # Tasks such as FollowIR have an instruction for each query, which counts as part of the query, as mteb has it.
        texts = {row["id"]: _query(row) for row in rows}
        instruction = _instruction(task_metadata)
        if top_ranked is not None:
            if (reranker := self.pipeline.reranker) is None:
                raise InvalidArgumentError("a reranking task needs a reranker; got None")
            return {name: self._reranked(reranker, text, top_ranked[name], instruction) for name, text in texts.items()}
        options: dict[str, Any] = {"candidates": self.candidates} if self.pipeline.reranker else {}
        together = self.pipeline.search_many(
            list(texts.values()),
            top_k=min(top_k, self.candidates) if options else top_k,
            group_by_document=True,
            instruction=instruction,
            **options,
        )
        for name, results in zip(texts, together, strict=True):
            found[name] = {hit.document_id: 1 / hit.rank for hit in results}
        return found

    def close(self) -> None:
        """Close the current store."""
        if self.pipeline is not None:
            self.pipeline.close()
            self.pipeline = None

    def _reranked(
        self, reranker: RerankerProtocol, query: str, names: list[str], instruction: str | None
    ) -> dict[str, float]:
        """Log-odds of documents that the task names."""
        result = reranker.read(query, [self._texts[name] for name in names], instruction)
        return dict(zip(names, result.log_odds.tolist(), strict=True))


class MtebReranker:
    """A reranker as mteb's cross-encoder."""

    def __init__(self, reranker: Reranker) -> None:
        self.reranker = reranker

    @property
    def mteb_model_meta(self) -> Any:
        """The reranker's name and revision."""
        described = self.reranker.describe()
        return _meta(Path(described["model"]).name, described["revision"])

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Any]],
        inputs2: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        **_: Any,
    ) -> NDArray[np.float32]:
        """Log-odds of each pair of a query, from the batches `inputs1`, and a document, from `inputs2`."""
        queries, documents = ([text for batch in inputs for text in batch["text"]] for inputs in (inputs1, inputs2))
        return self.reranker.predict(list(zip(queries, documents, strict=True)), _instruction(task_metadata))


class MtebEmbedder:
    """An embedder as mteb's encoder."""

    def __init__(self, embedder: EmbedderProtocol) -> None:
        self.embedder = embedder

    @property
    def mteb_model_meta(self) -> Any:
        """The embedder's name and revision."""
        described = self.embedder.describe()
        return _meta(Path(str(described["model"])).name, described.get("revision"))

    def encode(self, inputs: Batches, *, task_metadata: Any, prompt_type: Any = None, **_: Any) -> NDArray[np.float32]:
        """Unit vectors of queries, with the task's instruction, or of documents."""
        texts = [text for batch in inputs for text in batch["text"]]
        if getattr(prompt_type, "value", prompt_type) != "query":
            return self.embedder.encode_document(texts)
        takes = self.embedder.takes_instructions
        return self.embedder.encode_query(texts, _instruction(task_metadata) if takes else None)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of all pairs."""
        import torch

        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of corresponding pairs."""
        import torch

        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(-1)


def _query(row: Mapping[str, Any]) -> str:
    instruction = row.get("instruction")
    return f"{row['text']} {instruction}" if instruction else str(row["text"])
