"""What a server serves, and what its requests share."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import anyio
import anyio.to_thread

from qwen3_rag.errors import InvalidArgumentError
from qwen3_rag.models.cascade import Cascade
from qwen3_rag.models.embedder import Embedder
from qwen3_rag.models.engine.work import Work
from qwen3_rag.models.protocols import EmbedderProtocol, RerankerProtocol
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.pipeline import Pipeline
from qwen3_rag.server.failures import RequestError
from qwen3_rag.server.metrics import Metrics
from qwen3_rag.server.models import QUERY, ServedEmbedder, ServedReranker
from qwen3_rag.server.queue import Queue
from qwen3_rag.server.settings import ServerSettings

__all__ = ["Service"]

SHOWN = 60  # characters of an unknown name in a message


class Service:
    """Models, a store, and what requests share.

    Args:
        settings: What the server takes.
        embedder: An embedder to serve.
        reranker: A reranker to serve.
        pipeline: A store to serve; its models are served too, unless others are passed.
        embedder_name: The embedder's name in requests; None is the model's own.
        reranker_name: The reranker's name in requests; None is the model's own.

    Raises:
        InvalidArgumentError: Nothing to serve, or two models of one name.
    """

    def __init__(
        self,
        settings: ServerSettings,
        embedder: EmbedderProtocol | None = None,
        reranker: RerankerProtocol | None = None,
        pipeline: Pipeline | None = None,
        embedder_name: str | None = None,
        reranker_name: str | None = None,
    ) -> None:
        self.settings, self.pipeline = settings, pipeline
        if pipeline is not None:
            embedder, reranker = embedder or pipeline.embedder, reranker or pipeline.reranker
        if embedder is None and reranker is None:
            raise InvalidArgumentError("nothing to serve; expected --embedder, --reranker or --store")
        self.embedder = (
            ServedEmbedder(embedder, embedder_name, settings.max_tokens) if isinstance(embedder, Embedder) else None
        )
        self.reranker = (
            ServedReranker(reranker, reranker_name, settings.max_tokens)
            if isinstance(reranker, Reranker | Cascade)
            else None
        )
        if self.embedder and self.embedder.name.endswith(QUERY):
            raise InvalidArgumentError(
                f"the embedder's name is {self.embedder.name!r}; expected one without {QUERY!r} at its end, by which "
                "requests say that their texts are queries"
            )
        for kind, name, served in (
            ("embedder", embedder_name, self.embedder),
            ("reranker", reranker_name, self.reranker),
        ):
            if name is not None and served is None:
                raise InvalidArgumentError(f"{kind} name is {name!r}, but no {kind} is served; expected one")
        if self.embedder and self.reranker and self.embedder.name == self.reranker.name:
            if embedder_name is not None or reranker_name is not None:
                raise InvalidArgumentError(
                    f"embedder and reranker are both named {self.embedder.name!r}; expected two names: pass "
                    "--embedder-name or --reranker-name"
                )
            for model, kind in ((self.embedder, "embedder"), (self.reranker, "reranker")):  # such as those of the demo
                model.rename(f"{model.name}-{kind}")
        self.queue = Queue(settings.max_queue)
        # A thread for each place: who has one waits in the engine's queue, where deadlines count.
        self.threads = ThreadPoolExecutor(settings.max_queue, "qwen3-rag-serve")
        self.being_written = threading.Lock()
        self.metrics = Metrics(self.queue, self._works)
        self.loaded = False

    @cached_property
    def writing(self) -> anyio.CapacityLimiter:
        """Lets one writer at a time have a thread."""
        return anyio.CapacityLimiter(1)

    def load(self) -> None:
        """Use everything once, so that the first request does not wait."""
        for model in (self.embedder, self.reranker):
            if model is not None:
                model.load(self.settings.compile)
        if self.pipeline is not None:
            self.pipeline.search("loading", top_k=1, rerank=False)
        self.loaded = True

    def _works(self) -> Mapping[str, Work]:
        if not self.loaded:
            return {}
        works: dict[str, Work] = {}
        for model in (self.embedder, self.reranker):
            for place, work in enumerate(model.works if model else ()):
                works[f"{model.name}{f' stage {place}' if place else ''}" if model else ""] = work
        return works

    def reranker_named(self, name: str | None) -> ServedReranker:
        """The reranker, if `name` is its name or None.

        Raises:
            RequestError: There is none of this name (404).
        """
        if self.reranker is None:
            raise RequestError(404, "this server has no reranker; start it with --reranker")
        if name and name not in self.reranker.known:
            shown = repr(name[:SHOWN])
            raise RequestError(404, f"unknown model {shown}; the reranker's name is {self.reranker.name!r}")
        return self.reranker

    def embedder_named(self, name: str | None) -> tuple[ServedEmbedder, bool]:
        """The embedder, if `name` is its name or None; and whether the name embeds queries.

        Raises:
            RequestError: There is none of this name (404).
        """
        if self.embedder is None:
            raise RequestError(404, "this server has no embedder; start it with --embedder")
        base = (name or "").removesuffix(QUERY)
        if base and base not in self.embedder.known:
            own = self.embedder.name
            shown = repr((name or "")[:SHOWN])
            raise RequestError(
                404, f"unknown model {shown}; expected {own!r} for documents or {own + QUERY!r} for queries"
            )
        return self.embedder, (name or "").endswith(QUERY)

    @property
    def store(self) -> Pipeline:
        """The store.

        Raises:
            RequestError: There is none (404).
        """
        if self.pipeline is None:
            raise RequestError(404, "this server has no store; start it with --store")
        return self.pipeline
