"""Models that a store remembers: made again from their arguments, or, on a server that nobody trusted, refused."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from qwen3_rag.errors import InvalidArgumentError, StoreError, UntrustedStoreError
from qwen3_rag.models.cascade import Cascade, reranker_of
from qwen3_rag.models.embedder import Embedder, EmbedderProtocol
from qwen3_rag.models.reranker import Reranker
from qwen3_rag.models.runtimes import Reading

__all__ = ["remembered_embedder", "remembered_reranker"]

Model = TypeVar("Model")


class _Untrusted:
    """In place of a model whose server only the store names: every use is an error, and nothing is sent."""

    def __init__(self, role: str, described: Mapping[str, Any], urls: Sequence[str]) -> None:
        self.role, self.urls, self._described = role, urls, dict(described)
        self.instructions: dict[str, str] = dict(described.get("instructions") or {})

    @property
    def runs_on(self) -> dict[str, str]:
        """Where it would run."""
        return {"device": ", ".join(self.urls), "trusted": "no"}

    def describe(self) -> dict[str, Any]:
        """What the store remembers."""
        return self._described

    def refuse(self) -> NoReturn:
        """Say why it is not used."""
        raise UntrustedStoreError(
            f"the {self.role} that this store remembers runs at {', '.join(self.urls)}, an address that only the store "
            f"names; nothing was sent there. Pass {self.role}=, or open the store with trust_urls=True (--trust-urls)"
        )


class _UntrustedEmbedder(_Untrusted):
    takes_instructions = True

    def __init__(self, described: Mapping[str, Any], urls: Sequence[str], dimensions: int) -> None:
        super().__init__("embedder", described, urls)
        self.dimensions = dimensions

    def encode_query(self, texts: str | Sequence[str], instruction: str | None = None) -> NDArray[np.float32]:
        self.refuse()

    def encode_document(self, texts: str | Sequence[str], show_progress: bool = False) -> NDArray[np.float32]:
        self.refuse()

    def spans(self, text: str) -> NDArray[np.int64]:
        self.refuse()


class _UntrustedReranker(_Untrusted):
    def read(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        deadline: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Reading:
        self.refuse()


def remembered_embedder(described: Mapping[str, Any], dimensions: int, trust_urls: bool) -> EmbedderProtocol:
    """The embedder that a store describes.

    Args:
        described: Its arguments, as `describe` gave them.
        dimensions: Values in a vector of the store.
        trust_urls: Whether a server that the description names may be contacted.

    Raises:
        StoreError: It cannot be made from these arguments.
    """
    arguments = _without_keys(described)
    if (urls := _urls(arguments)) and not trust_urls:
        return _UntrustedEmbedder(arguments, urls, dimensions)
    return _made(lambda: Embedder(**arguments), "embedder", arguments)


def remembered_reranker(described: Mapping[str, Any], trust_urls: bool) -> Reranker | Cascade | _UntrustedReranker:
    """The reranker or cascade that a store describes. Arguments and errors as of `remembered_embedder`."""
    arguments = _without_keys(described)
    if (urls := _urls(arguments)) and not trust_urls:
        return _UntrustedReranker("reranker", arguments, urls)
    return _made(lambda: reranker_of(arguments), "reranker", arguments)


def _stages(described: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if not isinstance(described, Mapping):
        raise StoreError(f"the store remembers {described!r} as a model; expected its arguments")
    if "stages" not in described:
        return [described]
    return [one for stage, _ in described["stages"] for one in _stages(stage)]


def _urls(described: Mapping[str, Any]) -> list[str]:
    """Addresses of servers that a description names, those of a cascade's stages included."""
    return [str(one["runtime"]) for one in _stages(described) if "://" in str(one.get("runtime", ""))]


def _without_keys(described: Mapping[str, Any]) -> dict[str, Any]:
    """The same without names of variables that hold keys, which stores of earlier versions remember."""
    if "stages" in described:
        return {**described, "stages": [[_without_keys(stage), depth] for stage, depth in described["stages"]]}
    options = described.get("runtime_options")
    if not isinstance(options, Mapping):
        return dict(described)
    return {**described, "runtime_options": {k: v for k, v in options.items() if k != "api_key_env"}}


def _made(make: Callable[[], Model], role: str, described: Mapping[str, Any]) -> Model:
    try:
        return make()
    except (TypeError, InvalidArgumentError) as error:
        raise StoreError(
            f"the {role} that the store remembers ({described.get('model', described)}) cannot be made: {error}; "
            f"pass one as {role}= to open it"
        ) from error
