"""The pipeline: documents in; the nearest hundred passages out, reread by the reranker, the best k returned."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from qwen3_rag.arguments import as_path, check_cancel, check_ids, check_query, text_list
from qwen3_rag.calibration import calibrations_of
from qwen3_rag.descriptions import DESCRIPTIONS, described
from qwen3_rag.errors import (
    IndexCorruptedError,
    InvalidArgumentError,
    StoreExistsError,
    StoreMovedError,
    UnknownNameError,
)
from qwen3_rag.excerpts import excerpt
from qwen3_rag.index.retriever import Mode, Retriever
from qwen3_rag.index.store import Store
from qwen3_rag.index.upkeep import Upkeep
from qwen3_rag.ingest.folders import Folders, Paths
from qwen3_rag.ingest.indexer import add_documents, add_with_vectors, as_documents
from qwen3_rag.ingest.recutting import RECUT, Recutting
from qwen3_rag.ingest.reembedding import Reembedding
from qwen3_rag.ingest.walking import Selection
from qwen3_rag.models.base import NamedModel
from qwen3_rag.models.binding import binding_text
from qwen3_rag.models.cascade import Cascade, named_reranker
from qwen3_rag.models.concurrency import in_thread
from qwen3_rag.models.embedder import Embedder
from qwen3_rag.models.identity import check_same, describe_maker
from qwen3_rag.models.protocols import EmbedderProtocol, RerankerProtocol, check_model
from qwen3_rag.models.remembered import Untrusted, remembered_embedder, remembered_reranker
from qwen3_rag.ranking import Candidates, SearchOptions
from qwen3_rag.records import Document, Entry, IndexReport, Results
from qwen3_rag.searching import CALIBRATIONS, Searcher
from qwen3_rag.settings import Settings

__all__ = ["Pipeline"]

VERIFY_TRIES = 20
REEMBEDS = "reembeds"  # key under which an unfinished new store remembers the identity of the old one
RECUTTING = ("chunk_tokens", "chunk_overlap", "tables")  # settings that can change in place
LISTED = 1000  # documents of a list that are read at once
PROMPT_TOKENS = 16  # tokens
FOLDER_OPTIONS = ("strict", "largest", "seconds", "force", "reread", "retry")  # and those of `Selection`
# Arguments of `create` that go to models passed by name.
OF_CALIBRATION = ("queries", "calibration error", "precision", "min_probability", "answer_probability")  # in info()
MODEL_OPTIONS = ("device", "dtype", "hub", "instruction", "instructions", "runtime_options")
logger = logging.getLogger("qwen3_rag")


class Pipeline:
    """A store with its embedder and reranker. Made by `create` and `open`; also a context manager.

    Thread-safe: one object serves all threads of a process. Several processes may read one store while one writes.
    """

    def __init__(
        self, store: Store, embedder: EmbedderProtocol, reranker: RerankerProtocol | None, settings: Settings
    ) -> None:
        self.store, self.embedder, self.reranker, self.settings = store, embedder, reranker, settings
        _check_models(embedder, reranker)
        self.retriever = Retriever(store)
        self.searcher = Searcher(store, self.retriever, embedder, reranker)
        self.upkeep = Upkeep(store, lambda: self.retriever.damaged)
        self._embedder_checked = self._written = False

    @classmethod
    def create(
        cls,
        path: str | Path,
        embedder: str | EmbedderProtocol = "Qwen/Qwen3-Embedding-0.6B",
        reranker: str | RerankerProtocol | None = "Qwen/Qwen3-Reranker-0.6B",
        **options: Any,
    ) -> Self:
        """Create a store.

        Args:
            path: A folder that is empty or does not exist yet.
            embedder: An `Embedder`, or the name of its model.
            reranker: A `Reranker` or `Cascade`, the name of a model or "laptop", or None or "none" for the first
                stage only.
            **options: Fields of `Settings`, such as `chunk_tokens`; and `device`, `dtype`, `hub`, `instruction`,
                `instructions` and `runtime_options` for models passed by name.

        Raises:
            StoreExistsError: Something is at `path` already.
            InvalidArgumentError: An unknown option or model name.
            ModelError: The embedder cannot be loaded; nothing is left behind.
        """
        reranker = None if reranker == "none" else reranker
        for_models = {name: options.pop(name) for name in MODEL_OPTIONS if name in options}
        settings = Settings.of(options)
        if for_models and not isinstance(embedder, str) and not isinstance(reranker, str):
            raise InvalidArgumentError(
                f"{', '.join(for_models)} passed, but both models are objects already; set it on them"
            )
        embedder = Embedder(embedder, **for_models) if isinstance(embedder, str) else embedder
        reranker = named_reranker(reranker, **for_models) if isinstance(reranker, str) else reranker
        _check_models(embedder, reranker)
        folder = as_path(path, "path")
        Store.check_free(folder)
        _check_chunks(settings, embedder)
        meta: dict[str, Any] = {
            "settings": settings.describe(),
            "embedder": describe_maker(embedder),
            "reranker": reranker.describe() if reranker else None,
        }
        store = Store.create(
            folder,
            meta,
            dimensions=meta["embedder"]["dimensions"],
            vectors=settings.vectors,
            fields=settings.fields,
            titles=settings.titles,
        )
        pipeline = cls(store, embedder, reranker, settings)
        pipeline._embedder_checked = True
        return pipeline

    @classmethod
    def open(
        cls,
        path: str | Path,
        embedder: str | EmbedderProtocol | None = None,
        reranker: str | RerankerProtocol | None = None,
        *,
        trust_urls: bool = False,
    ) -> Self:
        """Open a store with the embedder, reranker and instructions it remembers, unless you pass others.

        A reranker that you pass is used by this object only; the store keeps remembering its own.

        Args:
            path: The store's folder.
            embedder: An `Embedder`, or the name of its model; None is the store's.
            reranker: A `Reranker` or `Cascade`, or the name of a model; None is the store's, "none" is no second stage.
            trust_urls: Whether texts may be sent to model servers that only the store names, with the key in
                `QWEN3_RAG_API_KEY` if it is set. Without it, using such a model is an `UntrustedStoreError`.

        Raises:
            StoreNotFoundError: There is no store at `path`.
            StoreVersionError: It is in another version of the format.
            EmbedderMismatchError: `embedder` is not the one that computed the vectors.
        """
        own = Embedder(embedder) if isinstance(embedder, str) else embedder
        wanted = None if reranker == "none" else reranker
        second = named_reranker(wanted) if isinstance(wanted, str) else wanted
        store = Store.open(as_path(path, "path"))
        try:
            settings, maker, kept = (store.meta(key) for key in ("settings", "embedder", "reranker"))
            if settings is None or maker is None:
                raise IndexCorruptedError(f"{path}: the store does not record its settings and embedder")
            if reranker is None and kept is not None:
                second = remembered_reranker(kept, trust_urls)
            first = own
            if first is None:
                first = remembered_embedder(maker["arguments"], int(maker["dimensions"]), trust_urls)
            pipeline = cls(store, first, second, Settings.of(settings))
            if own is not None:
                pipeline._check_embedder()
        except BaseException:
            store.close()
            raise
        return pipeline

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as the store's path and the models' arguments; the store is opened again when loaded."""
        return _reopen, (type(self), self.store.folder, self.store.identity, self.embedder, self.reranker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Documents in the store."""
        return self.store.count()[0]

    def __bool__(self) -> bool:
        """Always True, so that an empty store is not mistaken for a missing one."""
        return True

    def close(self) -> None:
        """Update derived indexes if this object wrote to the store, then close it."""
        try:
            if self._written:
                self._written = False
                self.upkeep.close()
        finally:
            self.store.close()

    def _check_embedder(self) -> None:
        """Check once that the embedder is the one that computed the store's vectors."""
        if not self._embedder_checked:
            check_same(self.embedder, self.store.meta("embedder"))
            self._embedder_checked = True

    def add(
        self, documents: Iterable[Document], show_progress: bool = False, *, vectors: NDArray[Any] | None = None
    ) -> IndexReport:
        """Write documents in one commit, replacing those with the same ids; they are searchable when this returns.

        Unchanged documents are skipped, and a text that the store holds is not embedded again.

        Args:
            documents: The documents.
            show_progress: A bar on a terminal, log lines elsewhere.
            vectors: Unit vectors (n, dimensions), one per document, if you already have them from the store's model.
                Each document becomes a single passage, and nothing is embedded.

        Raises:
            InvalidArgumentError: Not a list of documents, or vectors that do not fit; the store is unchanged.
        """
        checked = as_documents(documents, once=vectors is not None)
        if not checked:
            return IndexReport()
        if vectors is not None:
            report = add_with_vectors(self.store, checked, vectors)
        else:
            self._check_embedder()
            report = add_documents(self.store, self.embedder, self.settings, checked, show_progress)
        if report.documents:
            self._written = True
            self.upkeep.after_write()
        return report

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents and return how many existed; unknown ids are ignored."""
        names = list(dict.fromkeys(check_ids(ids)))
        present = [d.id for d in self.store.get(names) if d is not None]
        if present:
            self.store.write([], remove=present)
            self._written = True
            self.upkeep.after_write()
        return len(present)

    def get(self, ids: Sequence[str]) -> list[Document | None]:
        """Documents by id, in the order of `ids`; None for an unknown id."""
        return self.store.get(check_ids(ids))

    def read_part(
        self,
        document_id: str,
        *,
        lines: tuple[int, int] | None = None,
        page: int | None = None,
        characters: tuple[int, int] | None = None,
    ) -> str | None:
        """A part of a document's text; None for an unknown id.

        Args:
            document_id: The document's id.
            lines: The first line, from 1, and how many.
            page: A page, from 1.
            characters: Start and end, as in a hit.

        Raises:
            InvalidArgumentError: More than one of them, or a page that the document does not have.
        """
        (document,) = self.get([document_id])
        if document is None:
            return None
        pages = self.store.pages(document) if page is not None else ()
        return excerpt(document.text, pages, lines, page, characters)

    def documents(self, prefix: str = "") -> Iterator[Entry]:
        """Id, title, source and number of passages of each document, in order of their ids.

        Documents written or deleted meanwhile may be missing or included.

        Args:
            prefix: Only documents whose id starts with it.
        """
        last: str | None = None
        while entries := self.store.entries(prefix, last, LISTED):
            yield from entries
            last = entries[-1].id

    def describe(self, path: str | Path, text: str | None) -> None:
        """Keep a one-line description of a path, which comes with hits as `Hit.context`; None removes it.

        Args:
            path: A file or folder as in `Hit.source`, or the beginning of ids up to a slash.
            text: What is there, such as "minutes of the board, since 2019".

        Raises:
            InvalidArgumentError: The path is empty, or the text is empty, too long or has several lines.
        """
        self.store.set_meta(DESCRIPTIONS, described(self.descriptions(), str(path), text))

    def descriptions(self) -> dict[str, str]:
        """The descriptions by path."""
        return dict(self.store.meta(DESCRIPTIONS) or {})

    def status(self) -> dict[str, Any]:
        """How far the store agrees with its files, as JSON.

        `unreadable` has the files whose content cannot be read, or only in part, each with the reason; they are tried
        again once they change, or with `retry`. `unfinished` has those that an interrupted run left.
        """
        documents, passages = self.store.count()
        sources = self.store.sources
        return {
            "documents": documents,
            "passages": passages,
            "files": sources.count(),
            "unreadable": sources.unreadable(),
            "unfinished": sources.unfinished(),
        }

    def index(self, paths: Paths, show_progress: bool = False, **options: Any) -> IndexReport:
        """Index new and changed files; documents are removed only if their file no longer contains them.

        Text, Markdown, HTML, PDF, Office files, EPUB, source code, e-mail, notebooks, CSV, JSON, JSON lines and Parquet
        are read, by content and by name; see `qwen3_rag.ingest.readers.reader` to add your own. Unchanged files are not
        opened.

        Args:
            paths: A path or a list of paths.
            show_progress: A bar on a terminal, log lines elsewhere.
            **options: `include` and `exclude` (lists of globs as in .gitignore); `hidden`, `ignored` (files that a
                .gitignore excludes) and `follow_links`, False by default; `strict`, to raise instead of skipping a
                file that cannot be read; `largest`, maximum bytes of a file that is read whole; `seconds` that parsing
                one file may take (60); `reread`, to read unchanged files again, for example after a reader changed;
                `retry`, to read files again whose content could not be read; `force`, to let `sync` remove the
                documents of a folder of which most files are gone (by default they stay: its drive may be missing).

        Raises:
            IngestError: A path does not exist; with `strict`, a file cannot be read.
            UnknownNameError: An unknown option.
        """
        return self._folders(paths, False, options).run(show_progress)

    def sync(self, paths: Paths, show_progress: bool = False, *, dry_run: bool = False, **options: Any) -> IndexReport:
        """Like `index`, and remove documents whose file no longer exists; moved files keep their vectors.

        Nothing is removed because a file or folder could not be read.

        Args:
            paths: A path or a list of paths.
            show_progress: A bar on a terminal, log lines elsewhere.
            dry_run: Change nothing; the report lists what would be done.
            **options: As for `index`.
        """
        folders = self._folders(paths, True, options)
        return folders.run(show_progress) if not dry_run else folders.plan().report()

    def watch(self, paths: Paths, show_progress: bool = False, **options: Any) -> Iterator[IndexReport]:
        """Run `sync` now and at every change, until interrupted; yields a report each time."""
        return self._folders(paths, True, options).watch(show_progress)

    def recut(self, show_progress: bool = False, **settings: Any) -> IndexReport:
        """Cut the documents into other passages, in place; a text that stays a passage is not embedded again.

        Documents are cut along the headings of their passages, without reading files; `sync` with `reread` cuts files
        exactly as a new store would.

        An interrupted call continues with the next one, or with the next `index` or `sync`. Other objects that have the
        store open cut as before until they open it again.

        Args:
            show_progress: A bar on a terminal, log lines elsewhere.
            **settings: `chunk_tokens`, `chunk_overlap` and `tables`, where they differ from the store's.

        Raises:
            InvalidArgumentError: Another setting, which needs a new store (`reembed`), or a wrong value.
        """
        changed = Settings.of(self.settings.describe() | settings)
        fixed = [name for name in settings if name not in RECUTTING]
        if fixed:
            raise InvalidArgumentError(f"{', '.join(fixed)} passed; expected {', '.join(RECUTTING)}: use reembed")
        _check_chunks(changed, self.embedder)
        self._check_embedder()
        if changed != self.settings:
            self.store.set_meta(RECUT, "")  # before the settings, so that an interruption leaves nothing cut as before
            self.store.set_meta("settings", changed.describe())
            self.settings = changed
        if self.store.meta(RECUT) is None:
            return IndexReport(unchanged=len(self))
        report = Recutting(self.store, self.embedder, changed).run(show_progress)
        self._written = True
        self.upkeep.after_write()
        return report

    def _folders(self, paths: Paths, remove: bool, options: dict[str, Any]) -> Folders:
        roots = Folders.roots_of(paths)
        reading = {name: options.pop(name) for name in FOLDER_OPTIONS if name in options}
        known = [setting.name for setting in fields(Selection)]
        for name in options:
            if name not in known:
                raise UnknownNameError("option", name, [*known, *FOLDER_OPTIONS])
        self._check_embedder()
        if self.store.meta(RECUT) is not None:
            self.recut()

        def written() -> None:
            self._written = True
            self.upkeep.after_write()

        return Folders(
            self.store,
            self.embedder,
            self.settings,
            roots,
            Selection(**options),
            remove=remove,
            written=written,
            **reading,
        )

    def search(
        self,
        query: str,
        *,
        top_k: int = 10,
        candidates: Candidates = None,
        filter: Mapping[str, Any] | None = None,
        instruction: str | None = None,
        min_score: float | None = None,
        min_log_odds: float | None = None,
        min_probability: float | None = None,
        mode: Mode = "dense",
        rerank: bool = True,
        blend: float = 0.0,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
        group_by_document: bool = False,
        distinct: bool = False,
        neighbours: int = 0,
    ) -> Results:
        """Find the passages that answer a query.

        Args:
            query: The question, in any language.
            top_k: Maximum number of hits.
            candidates: Passages passed to the reranker; None is 100, or `top_k` if that is more. "auto" reads these
                best first, ten at a time, and stops when ten bring none into the best `top_k`.
            filter: Metadata filter, such as `{"lang": "en", "year": {"$gte": 2020}}`; applied before the cut.
            instruction: Replaces the default: a preset's name, one of your own names, or a sentence.
            min_score: Drop reranked hits with a lower probability.
            min_log_odds: Drop reranked hits with lower log-odds.
            min_probability: Drop hits that are less probably relevant, by the store's calibration.
            mode: "dense", "lexical" (BM25) or "hybrid" (both, their normalised scores added).
            rerank: False returns the first stage's order.
            blend: Weight, 0 to 1, of the first stage's normalised score in the final order; scores stay the reranker's.
            deadline: Seconds from this call after which reranking stops; `degraded` then gives the reason.
            cancel: Stops reranking once set, from any thread, like a deadline.
            group_by_document: One hit per document, its best passage. Unless you pass `candidates`, the first stage
                returns as many passages as needed for `top_k` documents.
            distinct: Of passages with the same text, only the best.
            neighbours: Passages before and after each hit, returned in its text.

        Raises:
            InvalidArgumentError: An argument is wrong, or `top_k` exceeds `candidates`.
            EmbedderMismatchError: The store's embedder has changed.
        """
        started = time.monotonic()
        options = SearchOptions(
            top_k=top_k,
            candidates=candidates,
            filter=filter,
            instruction=instruction,
            min_score=min_score,
            min_log_odds=min_log_odds,
            min_probability=min_probability,
            mode=mode,
            rerank=rerank,
            blend=blend,
            deadline=deadline,
            group_by_document=group_by_document,
            distinct=distinct,
            neighbours=neighbours,
        )
        return self._search([query], options, started, check_cancel(cancel))[0]

    def _search(
        self, queries: Sequence[str], options: SearchOptions, started: float, cancel: threading.Event | None
    ) -> list[Results]:
        for query in queries:
            check_query(query)
        if options.mode != "lexical":
            self._check_embedder()
        return self.searcher.search(queries, options, started, cancel)

    def search_many(
        self, queries: Sequence[str], *, cancel: threading.Event | None = None, **options: Any
    ) -> list[Results]:
        """Results of several queries, found together: faster than one `search` after another.

        The queries are embedded in common batches, compared with the store's vectors at once, and their candidates
        share the reranker's batches.

        Args:
            queries: The queries.
            cancel: As for `search`.
            **options: As for `search`; a `deadline` counts from this call and for all queries, and the `timings` of
                each result are those of its whole group of queries.

        Raises:
            InvalidArgumentError: An argument is wrong, or a query is empty; nothing is searched.
        """
        started = time.monotonic()
        return self._search(text_list(queries, "queries"), SearchOptions(**options), started, check_cancel(cancel))

    async def asearch(self, query: str, **options: Any) -> Results:
        """Run `search` in another thread; a cancelled task leaves the queue.

        A `deadline` counts from this call, so time spent waiting for a thread is part of it.
        """
        started = time.monotonic()
        cancel = options.pop("cancel", None)
        results = await in_thread(self._search, [query], SearchOptions(**options), started, cancel=cancel)
        return results[0]

    def optimize(self, index: str = "auto", *, recall: float = 0.99, queries: Sequence[str] | None = None) -> None:
        """Reclaim the space of deleted documents and rebuild the search indexes.

        Readers go on meanwhile; writers wait.

        Args:
            index: "flat" searches exactly, "ivf" approximately, "auto" approximately past 200,000 passages. Kept.
            recall: Share of the exact 100 nearest that an approximate index must find, in the mean; if it cannot,
                search stays exact.
            queries: Questions to measure the recall on; by default queries are derived from passages.

        Raises:
            UnknownNameError: Another kind of index.
            InvalidArgumentError: `recall` is not between 0 and 1.
        """
        if not isinstance(recall, int | float) or not 0 < recall <= 1:
            raise InvalidArgumentError(f"recall is {recall!r}; expected a share of more than 0, at most 1")
        texts = None if queries is None else text_list(queries, "queries")
        vectors = self.embedder.encode_query(texts) if texts else None
        self.upkeep.optimize(index, recall, vectors)

    def reembed(
        self,
        path: str | Path,
        embedder: str | EmbedderProtocol | None = None,
        reranker: str | RerankerProtocol | None = None,
        *,
        show_progress: bool = False,
        **settings: Any,
    ) -> IndexReport:
        """Make a new store from this store's texts: with another embedder, or cut into other passages.

        This store is not changed. If the call is interrupted, call it again with the same arguments to continue. Files
        are not read again; headings, pages and files of the documents are kept, so `sync` works on the new store.

        Args:
            path: A folder that is empty or does not exist yet, or the unfinished store of an interrupted call.
            embedder: An `Embedder`, or the name of its model; None is this store's.
            reranker: A `Reranker` or `Cascade`, or the name of a model; None is this store's.
            show_progress: A bar on a terminal, log lines elsewhere.
            **settings: Fields of `Settings` that differ from this store's.

        Raises:
            StoreExistsError: Something else is at `path`.
            InvalidArgumentError: An unknown setting or model name.
        """
        changed = Settings.of(self.settings.describe() | settings)
        folder = as_path(path, "path")
        models = self.embedder if embedder is None else embedder, self.reranker if reranker is None else reranker
        target = self._unfinished(folder, *models)
        if target is None:
            target = type(self).create(folder, *models, **changed.describe())
            target.store.set_meta(REEMBEDS, self.store.identity)
        with target:
            if target.settings != changed:
                raise InvalidArgumentError(f"{folder} was begun with {target.settings}; expected {changed}, as before")
            same = embedder is None or target.store.meta("embedder") == self.store.meta("embedder")
            work = Reembedding(self.store, target.store, target.embedder, self.settings, changed, same)
            report = work.run(show_progress)
            target.store.set_meta(REEMBEDS, None)
            target._written = True
        return report

    def _unfinished(
        self, folder: Path, embedder: str | EmbedderProtocol, reranker: str | RerankerProtocol | None
    ) -> Self | None:
        """The store that an interrupted `reembed` of this store began in a folder, opened."""
        if not Store.exists(folder):
            return None
        target = type(self).open(folder, embedder, reranker)
        if target.store.meta(REEMBEDS) != self.store.identity:
            target.close()
            raise StoreExistsError(
                f"{folder} is already a store; expected a new folder, or this store's unfinished copy"
            )
        return target

    def backup(self, path: str | Path) -> None:
        """Copy the store's last commit into a folder that is empty or does not exist yet.

        Others may read and write the store meanwhile. The copy is a store of its own.

        Raises:
            StoreExistsError: Something is at `path` already.
            IndexCorruptedError: What is copied does not match its checksums; nothing is left behind.
            StoreError: The folder cannot be written; nothing is left behind.
        """
        self.store.backup(as_path(path, "path"))

    def verify(self) -> list[str]:
        """Read the whole store, compare checksums and return the faults, in words. Writes nothing."""
        for _ in range(VERIFY_TRIES):
            with self.store.snapshot() as commit:
                faults = self.store.verify() + self.upkeep.verify()
            # A commit that was replaced meanwhile may have lost its files to the sweep that follows.
            if not faults or self.store.files.acknowledged() == commit.number:
                break
        return faults

    def info(self) -> dict[str, Any]:
        """Contents, models and indexes of the store, as JSON."""
        commit, files = self.store.last_commit(), self.store.files
        return {
            "path": str(self.store.folder),
            "format": self.store.format,
            "commit": commit.number,
            "documents": commit.documents,
            "passages": commit.live,
            "bytes": sum(files.size(name) for name in files.names()),
            "dimensions": self.store.dimensions,
            "index": self.retriever.describe(),
            "settings": self.settings.describe(),
            "embedder": _described(self.embedder),
            "reranker": _described(self.reranker) if self.reranker else None,
            "calibrations": [
                {"of": binding_text(dict(each.binding))} | {name: each.report[name] for name in OF_CALIBRATION}
                for each in calibrations_of(self.store.meta(CALIBRATIONS))
            ],
        }


def _reopen(
    kind: type[Pipeline],
    path: Path,
    identity: str,
    embedder: EmbedderProtocol,
    reranker: RerankerProtocol | None,
) -> Pipeline:
    """Open the store of a pickled pipeline.

    Raises:
        StoreMovedError: Another store is at the path by now.
    """
    store = Store.open(path)
    try:
        if store.identity != identity:
            raise StoreMovedError(path)
        return kind(store, embedder, reranker, Settings.of(store.meta("settings")))
    except BaseException:
        store.close()
        raise


def _check_models(embedder: EmbedderProtocol, reranker: RerankerProtocol | None) -> None:
    check_model(embedder, EmbedderProtocol, "embedder")
    if reranker is not None:
        check_model(reranker, RerankerProtocol, "reranker")


def _check_chunks(settings: Settings, embedder: EmbedderProtocol) -> None:
    """Refuse passages longer than the embedder reads: the rest of them could not be found."""
    if settings.chunk_tokens + PROMPT_TOKENS > embedder.longest:
        raise InvalidArgumentError(
            f"chunk_tokens is {settings.chunk_tokens}; this embedder reads {embedder.longest} tokens, expected at most "
            f"{embedder.longest - PROMPT_TOKENS}, which leaves space for its prompt and a title"
        )


def _described(model: EmbedderProtocol | RerankerProtocol) -> dict[str, Any]:
    if isinstance(model, Cascade):
        return {"stages": [_described(reranker) | {"candidates": depth} for reranker, depth in model.stages]}
    runs_on = model.runs_on if isinstance(model, NamedModel | Untrusted) else "unknown"
    return model.describe() | {"runs_on": runs_on}
