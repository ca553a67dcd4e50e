"""Collections in BEIR layout with their vectors by the demo embedder, which are computed once and kept."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwen3_rag import Embedder
from qwen3_rag.evaluation.judged import Judged, read_folder
from qwen3_rag.records import passage_text

__all__ = ["Collection", "embedded"]

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Collection:
    """Texts and judged queries of a collection, and unit vectors of both."""

    name: str
    ids: list[str]
    texts: list[str]
    judged: Judged
    vectors: Float32
    query_vectors: Float32


def embedded(folder: Path, kept: Path, most: int | None = None) -> Collection:
    """A collection with its first `most` judged queries; vectors come from the folder `kept`, or go there."""
    records = [json.loads(line) for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines()]
    texts = [passage_text(r["text"], r.get("title") or None) for r in records]
    judged = read_folder(folder).first(most)
    queries = list(judged.queries.values())
    file = kept / f"{folder.name}-{len(queries)}.npz"
    if not file.is_file():
        kept.mkdir(exist_ok=True)
        print(f"embedding {len(texts)} texts and {len(queries)} queries of {folder.name}, once", flush=True)
        embedder = Embedder("demo")
        base = embedder.encode_document(texts, show_progress=True)
        np.savez(file, base=base, queries=embedder.encode_query(queries))
    arrays = np.load(file)
    return Collection(folder.name, [r["_id"] for r in records], texts, judged, arrays["base"], arrays["queries"])
