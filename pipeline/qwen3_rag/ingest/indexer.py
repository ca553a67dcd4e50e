"""Index documents: split them into passages, embed the new ones and write; no text is embedded twice."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.arguments import shown
from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.index.passages import PassageRow
from qwen3_rag.index.store import Store
from qwen3_rag.ingest.chunking import Cut, chunk, token_starts
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.models.protocols import EmbedderProtocol
from qwen3_rag.records import Document, IndexReport, heading_path, passage_text, same_as_stored
from qwen3_rag.settings import Settings

__all__ = [
    "BATCH",
    "Prepared",
    "Vectors",
    "add_documents",
    "add_with_vectors",
    "as_documents",
    "not_unit",
    "prepare",
    "prepared_as",
    "vectors_of",
]

BATCH = 256  # passages embedded at once, and written in one commit when indexing files
UNIT = 1e-2  # tolerance of a norm: float16 rounding stays well below, unnormalized vectors exceed it
IN_CACHE = 256  # rows whose norms are computed at once, so that they stay in the CPU cache
DIGEST = 16  # bytes of a text's digest; 128 bits make a collision within a store negligible

logger = logging.getLogger("qwen3_rag")
Vectors = dict[bytes, NDArray[np.float32]]


@dataclass(frozen=True)
class Prepared:
    """A document split into passages.

    Attributes:
        document: The document.
        pages: Offsets at which its pages start.
        cuts: Its passages.
        texts: The text embedded for each passage.
        digests: The digest of each of these texts.
    """

    document: Document
    pages: tuple[int, ...]
    cuts: list[Cut]
    texts: list[str]
    digests: list[bytes]

    def rows(self, vectors: Vectors) -> list[PassageRow]:
        """Its passages as rows to write."""
        return [
            PassageRow(cut.start, cut.stop, digest, vectors[digest], cut.page, heading_path(cut.headings, cut.row))
            for cut, digest in zip(self.cuts, self.digests, strict=True)
        ]


def as_documents(documents: Iterable[Document], once: bool = False) -> list[Document]:
    """The documents as a list, keeping the last of each id; repeated ids are logged, or an error with `once`.

    Raises:
        InvalidArgumentError: Not a list, an item that is not a `Document`, or with `once` a repeated id.
    """
    if isinstance(documents, str | Document) or not isinstance(documents, Iterable):
        raise InvalidArgumentError(f"documents is a single {type(documents).__name__}; expected a list of Document")
    by_id: dict[str, Document] = {}
    repeated = 0
    for position, document in enumerate(documents):
        if not isinstance(document, Document):
            raise InvalidArgumentError(f"documents[{position}] is {shown(document)[:80]}; expected a Document")
        if once and document.id in by_id:
            raise InvalidArgumentError(
                f"documents[{position}] repeats the id {document.id!r}; expected each id once with vectors="
            )
        repeated += document.id in by_id
        by_id[document.id] = document
    if repeated:
        logger.warning("%d documents repeat an id of the same batch; the last of each is kept", repeated)
    return list(by_id.values())


def not_unit(rows: NDArray[np.floating[Any]]) -> tuple[int, float] | None:
    """Index and norm of the first of the rows (n, dimensions) that is not a unit vector; None if all are."""
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(rows), IN_CACHE):
            part = rows[start : start + IN_CACHE].astype(np.float32, copy=False)
            norms = np.sqrt(np.einsum("ij,ij->i", part, part))
            wrong = np.flatnonzero(~(np.abs(norms - 1) <= UNIT))  # `~(<=)` also catches NaN
            if len(wrong):
                return start + int(wrong[0]), float(norms[wrong[0]])
    return None


def add_with_vectors(store: Store, documents: Sequence[Document], vectors: NDArray[Any]) -> IndexReport:
    """Write documents in one commit, each as a single passage with its row of `vectors` (n, dimensions).

    Raises:
        InvalidArgumentError: Wrong shape or dtype, or a row that is not a unit vector; nothing is written.
    """
    rows = np.asarray(vectors)
    if rows.shape != (len(documents), store.dimensions) or rows.dtype.kind != "f":
        raise InvalidArgumentError(
            f"vectors has shape {rows.shape} of {rows.dtype}; expected ({len(documents)}, {store.dimensions}) of floats"
        )
    if (wrong := not_unit(rows)) is not None:
        raise InvalidArgumentError(
            f"vectors[{wrong[0]}] has norm {wrong[1]:.4g}; expected unit vectors: divide each row by its norm"
        )
    passages = (
        (d, [PassageRow(0, len(d.text), _digest(passage_text(d.text, d.title, titles=store.titles)), row)])
        for d, row in zip(documents, rows, strict=True)
    )
    store.write(passages)
    return IndexReport(len(documents), 0, len(documents), 0)


def _digest(text: str) -> bytes:
    """The digest of an embedded text, used to look up its vector."""
    return hashlib.sha256(text.encode()).digest()[:DIGEST]


def prepare(parsed: Parsed, embedder: EmbedderProtocol, settings: Settings) -> Prepared:
    """Split a document into passages."""
    document = parsed.document
    starts = token_starts(embedder, document.text)
    cuts = chunk(parsed, starts, settings.chunk_tokens, settings.chunk_overlap, settings.tables)
    # Some collections contain documents with only a title; index the title alone.
    cuts = cuts or ([Cut(0, 0)] if document.title and settings.titles else [])
    return prepared_as(document, parsed.pages, cuts, settings)


def prepared_as(document: Document, pages: tuple[int, ...], cuts: list[Cut], settings: Settings) -> Prepared:
    """A document with the passages `cuts`."""
    texts = [
        passage_text(document.text[c.start : c.stop], document.title, heading_path(c.headings, c.row), settings.titles)
        for c in cuts
    ]
    return Prepared(document, pages, cuts, texts, [_digest(text) for text in texts])


def add_documents(
    store: Store, embedder: EmbedderProtocol, settings: Settings, documents: Sequence[Document], show_progress: bool
) -> IndexReport:
    """Write documents in one commit, skipping unchanged ones and embedding no text twice."""
    stored = dict(zip((d.id for d in documents), store.get([d.id for d in documents]), strict=True))
    new = [document for document in documents if not same_as_stored(document, stored[document.id])]
    if not new:
        return IndexReport(unchanged=len(documents))
    prepared = [prepare(Parsed(document), embedder, settings) for document in new]

    def embed(texts: list[str]) -> NDArray[np.float32]:
        return embedder.encode_document(texts, show_progress=show_progress)

    vectors, embedded = vectors_of(prepared, store, embedder, embed)
    store.write((each.document, each.rows(vectors)) for each in prepared)
    passages = sum(len(each.cuts) for each in prepared)
    return IndexReport(len(new), len(documents) - len(new), passages, embedded)


def vectors_of(
    prepared: Sequence[Prepared],
    store: Store,
    embedder: EmbedderProtocol,
    embed: Callable[[list[str]], NDArray[np.float32]],
    known: Vectors | None = None,
) -> tuple[Vectors, int]:
    """Vectors of all passages by digest, taken from `known` or the store where available, and how many were embedded.

    Raises:
        ModelError: The embedder returned the wrong shape or a vector that is not a unit vector.
    """
    digests = [digest for each in prepared for digest in each.digests]
    texts = [text for each in prepared for text in each.texts]
    vectors = store.known_vectors(digests) | (known or {})
    missing = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in vectors}
    if missing:
        embedded = embed(list(missing.values()))
        if embedded.shape != (len(missing), embedder.dimensions):
            raise ModelError(
                f"the embedder returned vectors of shape {embedded.shape}; "
                f"expected {(len(missing), embedder.dimensions)}"
            )
        if (wrong := not_unit(embedded)) is not None:
            text = list(missing.values())[wrong[0]]
            raise ModelError(f"the embedder returned a vector of norm {wrong[1]:.4g} for {text[:60]!r}; expected 1")
        vectors |= dict(zip(missing, embedded, strict=True))
    return vectors, len(missing)
