"""Documents into a store: cut, embed what is new, write in one commit."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError, ModelError
from qwen3_rag.index.store import PassageRow, Store
from qwen3_rag.ingest.chunking import Span, chunk
from qwen3_rag.ingest.readers import read_documents
from qwen3_rag.models.embedder import EmbedderProtocol
from qwen3_rag.records import Document, IndexReport, titled
from qwen3_rag.settings import Settings

__all__ = ["add_documents", "add_with_vectors", "as_documents", "file_batches"]

BATCH = 256  # documents of one commit when files are indexed
DIGEST = 16  # bytes of a text's digest: enough that no two texts of a store ever meet

logger = logging.getLogger("qwen3_rag")


def as_documents(documents: Iterable[Document]) -> list[Document]:
    """The documents as a list, the last of each id; repeated ids are logged.

    Raises:
        InvalidArgumentError: A text or a single document instead of a list, or something else among them.
    """
    if isinstance(documents, str | Document) or not isinstance(documents, Iterable):
        raise InvalidArgumentError(f"documents is a single {type(documents).__name__}; expected a list of Document")
    by_id: dict[str, Document] = {}
    repeated = 0
    for position, document in enumerate(documents):
        if not isinstance(document, Document):
            raise InvalidArgumentError(f"documents[{position}] is {str(document)[:80]!r}; expected a Document")
        repeated += document.id in by_id
        by_id[document.id] = document
    if repeated:
        logger.warning("%d documents repeat an id of the same batch; the last of each is kept", repeated)
    return list(by_id.values())


def add_with_vectors(store: Store, documents: Sequence[Document], vectors: NDArray[Any]) -> IndexReport:
    """Write documents in one commit, each a single passage with the vector (n, dimensions) given for it."""
    rows = np.asarray(vectors)
    if rows.shape != (len(documents), store.dimensions) or rows.dtype.kind != "f":
        raise InvalidArgumentError(
            f"vectors has shape {rows.shape} of {rows.dtype}; expected ({len(documents)}, {store.dimensions}) of floats"
        )
    passages = (
        (d, [PassageRow(0, len(d.text), _digest(titled(d.title, d.text)), row)])
        for d, row in zip(documents, rows, strict=True)
    )
    store.write(passages)
    return IndexReport(len(documents), 0, len(documents), 0)


def _digest(text: str) -> bytes:
    """A name for what was embedded, by which its vector is found again."""
    return hashlib.sha256(text.encode()).digest()[:DIGEST]


def add_documents(
    store: Store, embedder: EmbedderProtocol, settings: Settings, documents: Sequence[Document], show_progress: bool
) -> IndexReport:
    """Write documents in one commit; those the store has as they are cost nothing, and no text is embedded twice."""
    held = dict(zip((d.id for d in documents), store.get([d.id for d in documents]), strict=True))
    new = [document for document in documents if held[document.id] != document]
    if not new:
        return IndexReport(unchanged=len(documents))
    cuts = [_cut(document, embedder, settings) for document in new]
    texts = [titled(d.title, d.text[start:end]) for d, spans in zip(new, cuts, strict=True) for start, end in spans]
    digests = [_digest(text) for text in texts]
    vectors = store.known_vectors(digests)
    missing = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in vectors}
    embedded = embedder.encode_document(list(missing.values()), show_progress=show_progress)
    if not np.isfinite(embedded).all() or embedded.shape != (len(missing), embedder.dimensions):
        raise ModelError(f"the embedder gave vectors of shape {embedded.shape}, or NaN; expected unit rows")
    vectors |= dict(zip(missing, embedded, strict=True))
    remaining = iter(digests)
    rows = [[_row(span, next(remaining), vectors) for span in spans] for spans in cuts]
    store.write(zip(new, rows, strict=True))
    return IndexReport(len(new), len(documents) - len(new), len(texts), len(missing))


def _cut(document: Document, embedder: EmbedderProtocol, settings: Settings) -> list[Span]:
    spans = chunk(document.text, embedder.spans(document.text), settings.chunk_tokens, settings.chunk_overlap)
    # A document that is a title only (collections have such) can still be found by it.
    return spans or ([(0, 0)] if document.title else [])


def _row(span: Span, digest: bytes, vectors: dict[bytes, NDArray[np.float32]]) -> PassageRow:
    return PassageRow(span[0], span[1], digest, vectors[digest])


def file_batches(files: Sequence[Path]) -> Iterator[list[Document]]:
    """The documents of files, some hundred at a time.

    All files are read through once before the first batch is given, so that one that cannot be read is an error before
    anything is written; reading costs little beside embedding.

    Raises:
        IngestError: A file that cannot be read.
    """
    for file in files:
        for _ in read_documents(file):
            pass
    batch: list[Document] = []
    for file in files:
        for document in read_documents(file):
            batch.append(document)
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch
