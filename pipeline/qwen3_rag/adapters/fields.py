"""Components whose fields describe a model.

Needs pydantic, which both frameworks install.
"""

import copy
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from qwen3_rag.forking import forget_in_child
from qwen3_rag.models.cascade import adaptive, named_reranker
from qwen3_rag.models.embedder import Embedder
from qwen3_rag.models.protocols import EmbedderProtocol, RerankerProtocol, check_model

__all__ = ["CONFIG", "Checked", "EmbedderFields", "ModelFields", "RerankerFields"]

CONFIG = ConfigDict(
    arbitrary_types_allowed=True,
    extra="forbid",
    validate_assignment=True,
    protected_namespaces=("pydantic_model_",),
)


class _Shared:
    """Models in use, by kind and arguments: components whose fields say the same share weights and batches.

    Frameworks copy components freely, so this is not a field: a lock can neither be copied nor pickled.
    """

    lock = threading.Lock()  # weights are not loaded under it
    models: ClassVar[WeakValueDictionary[str, Any]] = WeakValueDictionary()

    @classmethod
    def after_fork(cls) -> None:
        cls.lock = threading.Lock()


forget_in_child(_Shared.after_fork)


class Checked(BaseModel):
    """A component whose fields are checked when they are assigned; a failed assignment leaves it unchanged."""

    def __setattr__(self, name: str, value: Any) -> None:
        before = dict(self.__dict__)
        try:
            super().__setattr__(name, value)
        except ValidationError:
            # pydantic keeps a value that a model validator rejected.
            self.__dict__.update(before)
            raise


class ModelFields(Checked):
    """The fields that describe a model, and the model they describe.

    Assigning a field or `model_copy(update=...)` takes effect at the next use, which loads another model if necessary.
    Copies and pickles carry the fields, not the weights; in one process, equal fields share the weights.

    Raises:
        pydantic.ValidationError: A field is unknown, a value is wrong, or a model's settings are combined with
            a ready model. A failed assignment leaves the object unchanged.
    """

    model_config = CONFIG
    ready_field: ClassVar[str]  # the field that holds a ready model
    protocol: ClassVar[type]
    make: ClassVar[Callable[..., Any]]
    default_model: ClassVar[str]
    settings_fields: ClassVar[tuple[str, ...]] = (
        "model", "runtime", "runtime_options", "hub", "device", "dtype", "max_length",
    )  # fmt: skip

    model: str | None = Field(default=None, description="Hub id, folder or preset; by default the 0.6B model.")
    instruction: str | None = Field(default=None, description="A preset's name or a sentence.")
    runtime: str = "native"
    runtime_options: dict[str, Any] = Field(default_factory=dict)
    hub: str = "huggingface"
    device: str = "auto"
    dtype: str = "auto"
    max_length: int = Field(default=8192, ge=2)
    _built: tuple[dict[str, Any], Any] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.current_model()
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        duplicate = super().__deepcopy__(memo)
        duplicate._built = None  # found again among the models in use
        return duplicate

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._built = None

    def current_model(self) -> Any:
        """The model that the current fields describe; weights load at first use."""
        settings = {name: getattr(self, name) for name in self.settings_fields}
        changed = {name: value for name, value in settings.items() if value != self._default(name)}
        ready = getattr(self, self.ready_field)
        if ready is not None:
            check_model(ready, self.protocol, self.ready_field)
            if changed:
                raise ValueError(
                    f"{', '.join(changed)} set together with {self.ready_field}; expected one or the other"
                )
            self._built = None
            return ready
        with _Shared.lock:
            if self._built is None or self._built[0] != settings:
                self._built = copy.deepcopy(settings), self._shared(changed)
            return self._built[1]

    def _shared(self, changed: dict[str, Any]) -> Any:
        """The model of these settings that is in use already, or a new one."""
        arguments = changed | {"model": self.model or self.default_model}
        model = type(self).make(**arguments)
        described = model.describe()  # with absolute paths; it leaves out arguments such as the device
        try:
            key = json.dumps([self.ready_field, arguments, described, _changed(described)], sort_keys=True)
        except TypeError:  # an option that is no JSON may be a different object of the same look
            return model
        return _Shared.models.setdefault(key, model)

    @classmethod
    def _default(cls, name: str) -> Any:
        return cls.model_fields[name].get_default(call_default_factory=True)


def _changed(described: Mapping[str, Any]) -> list[int]:
    """When the files of the described local models changed last, in nanoseconds."""
    folders = [Path(str(stage.get("model"))) for stage, _ in described.get("stages", [(described, 0)])]
    return [
        max((file.stat().st_mtime_ns for file in folder.iterdir()), default=0) for folder in folders if folder.is_dir()
    ]


class RerankerFields(ModelFields):
    """The fields that describe a reranker; see `ModelFields`."""

    ready_field: ClassVar[str] = "reranker"
    protocol: ClassVar[type] = RerankerProtocol
    make: ClassVar[Callable[..., Any]] = staticmethod(named_reranker)
    default_model: ClassVar[str] = "Qwen/Qwen3-Reranker-0.6B"

    reranker: Any = Field(default=None, description="A Reranker or Cascade to use instead of `model`.")
    adaptive: bool = Field(
        default=False, description="Texts come best first; stop once ten bring none into the best `top_n`."
    )

    def current_reranker(self) -> RerankerProtocol:
        """The reranker that the current fields describe; weights load at first use."""
        reranker: RerankerProtocol = self.current_model()
        return reranker

    def reader(self, top_n: int) -> RerankerProtocol:
        """The current reranker; with `adaptive`, one that leaves texts unread that are not among the best `top_n`."""
        reranker = self.current_reranker()
        return adaptive(reranker, top_n) if self.adaptive else reranker

    def model_name(self) -> str:
        """The reranker's name, for traces."""
        described = self.current_reranker().describe()
        return str(described.get("model", described))


class EmbedderFields(ModelFields):
    """The fields that describe an embedder; see `ModelFields`. `instruction` is that of queries."""

    ready_field: ClassVar[str] = "embedder"
    protocol: ClassVar[type] = EmbedderProtocol
    make: ClassVar[Callable[..., Any]] = Embedder
    default_model: ClassVar[str] = "Qwen/Qwen3-Embedding-0.6B"
    settings_fields: ClassVar[tuple[str, ...]] = (*ModelFields.settings_fields, "dimensions")

    embedder: Any = Field(default=None, description="An Embedder to use instead of `model`.")
    dimensions: int | None = Field(default=None, ge=1, description="First values of each vector to keep.")

    def current_embedder(self) -> EmbedderProtocol:
        """The embedder that the current fields describe; weights load at first use."""
        embedder: EmbedderProtocol = self.current_model()
        return embedder

    def embedder_name(self) -> str:
        """The embedder's name, for traces."""
        return str(self.current_embedder().describe().get("model"))

    def query_vectors(self, texts: list[str]) -> list[list[float]]:
        """Vectors of queries, with the instruction."""
        rows: list[list[float]] = self.current_embedder().encode_query(texts, self.instruction).tolist()
        return rows

    def document_vectors(self, texts: list[str]) -> list[list[float]]:
        """Vectors of documents."""
        rows: list[list[float]] = self.current_embedder().encode_document(texts).tolist()
        return rows
