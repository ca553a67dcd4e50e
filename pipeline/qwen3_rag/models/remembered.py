"""Recreates the models saved in a store; refuses a server that only the store names and the user has not trusted."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError, StoreError, UntrustedStoreError
from qwen3_rag.models.cascade import Cascade, reranker_of
from qwen3_rag.models.embedder import Embedder
from qwen3_rag.models.protocols import EmbedderProtocol
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.scores import RerankResult

__all__ = ["Untrusted", "remembered_embedder", "remembered_reranker"]

Model = TypeVar("Model")


class Untrusted:
    """Stands in for a model on a server that only the store names: every use raises, and nothing is sent."""

    def __init__(self, role: str, described: Mapping[str, Any], urls: Sequence[str]) -> None:
        self.role, self.urls, self._described = role, urls, dict(described)

    @property
    def runs_on(self) -> dict[str, str]:
        """The servers it would run on."""
        return {"device": ", ".join(self.urls), "trusted": "no"}

    def describe(self) -> dict[str, Any]:
        """The description saved in the store."""
        return self._described

    def refuse(self) -> NoReturn:
        """Raise the error that explains why the model is not used."""
        raise UntrustedStoreError(
            f"the {self.role} that this store remembers runs at {', '.join(self.urls)}, an address that only the store "
            f"names; nothing was sent there. Pass {self.role}=, or open the store with trust_urls=True (--trust-urls)"
        )


class _UntrustedEmbedder(Untrusted):
    takes_instructions = True

    def __init__(self, described: Mapping[str, Any], urls: Sequence[str], dimensions: int) -> None:
        super().__init__("embedder", described, urls)
        self.dimensions, self.longest = dimensions, int(described.get("max_length", 8192))

    def encode_query(self, texts: str | Sequence[str], instruction: str | None = None) -> NDArray[np.float32]:
        self.refuse()

    def encode_document(self, texts: str | Sequence[str], show_progress: bool = False) -> NDArray[np.float32]:
        self.refuse()

    def spans(self, text: str) -> NDArray[np.int64]:
        self.refuse()


class _UntrustedReranker(Untrusted):
    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> RerankResult:
        self.refuse()


def remembered_embedder(described: Mapping[str, Any], dimensions: int, trust_urls: bool) -> EmbedderProtocol:
    """Recreate the embedder that a store describes.

    Args:
        described: Arguments from the embedder's `describe`.
        dimensions: Values in one of the store's vectors.
        trust_urls: Whether a server named in the description may be contacted.

    Raises:
        StoreError: These arguments make no embedder.
    """
    arguments = _current(described)
    if (urls := _urls(arguments)) and not trust_urls:
        return _UntrustedEmbedder(arguments, urls, dimensions)
    return _create(lambda: Embedder(**arguments), "embedder", arguments)


def remembered_reranker(described: Mapping[str, Any], trust_urls: bool) -> Reranker | Cascade | _UntrustedReranker:
    """Recreate the reranker or cascade that a store describes. Arguments and errors as in `remembered_embedder`."""
    arguments = _current(described)
    if (urls := _urls(arguments)) and not trust_urls:
        return _UntrustedReranker("reranker", arguments, urls)
    return _create(lambda: reranker_of(arguments), "reranker", arguments)


def _stages(described: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if not isinstance(described, Mapping):
        raise StoreError(f"the store remembers {described!r} as a model; expected its arguments")
    if "stages" not in described:
        return [described]
    return [model for stage, _ in described["stages"] for model in _stages(stage)]


def _urls(described: Mapping[str, Any]) -> list[str]:
    """URLs of the servers in a description, including those of a cascade's stages."""
    return [str(model["runtime"]) for model in _stages(described) if "://" in str(model.get("runtime", ""))]


def _current(described: Mapping[str, Any]) -> dict[str, Any]:
    """The description as this version writes it: earlier ones had `api_key_env` and `hub` among the runtime options."""
    if "stages" in described:
        return {**described, "stages": [[_current(stage), depth] for stage, depth in described["stages"]]}
    options = described.get("runtime_options")
    if not isinstance(options, Mapping):
        return dict(described)
    kept = {name: value for name, value in options.items() if name not in ("api_key_env", "hub")}
    hub = {"hub": options["hub"]} if "hub" in options else {}
    return {**described, **hub, "runtime_options": kept}


def _create(make: Callable[[], Model], role: str, described: Mapping[str, Any]) -> Model:
    try:
        return make()
    except (TypeError, InvalidArgumentError) as error:
        raise StoreError(
            f"the {role} that the store remembers ({described.get('model', described)}) cannot be made: {error}; "
            f"pass one as {role}= to open it"
        ) from error
