"""What the adapters for LangChain and LlamaIndex share: a component whose fields describe a reranker.

Needs pydantic, which both frameworks install.
"""

import copy
import threading
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from qwen3_rag.models.cascade import Cascade, adaptive, named_reranker
from qwen3_rag.models.protocols import RerankerProtocol, check_model
from qwen3_rag.models.reranker import Reranker

__all__ = ["SETTINGS", "RerankerFields"]

DEFAULT_MODEL = "Qwen/Qwen3-Reranker-0.6B"
SETTINGS = ("model", "runtime", "runtime_options", "hub", "device", "dtype", "max_length")
# Shared by all objects, because a lock can neither be copied nor pickled; weights are not loaded under it.
_building = threading.Lock()


class RerankerFields(BaseModel):
    """The fields that describe a reranker, and the reranker they describe.

    Assigning a field or `model_copy(update=...)` takes effect at the next use, which loads another model if necessary.
    Copies and pickles carry the fields, not the weights.

    Raises:
        pydantic.ValidationError: A field is unknown, a value is wrong, or a model's settings are combined with
            `reranker`. A failed assignment leaves the object unchanged.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        extra="forbid",
        validate_assignment=True,
        protected_namespaces=("pydantic_model_",),
    )

    model: str | None = Field(default=None, description=f"Hub id, folder or preset; by default {DEFAULT_MODEL}.")
    reranker: Any = Field(default=None, description="A Reranker or Cascade to use instead of `model`.")
    instruction: str | None = Field(default=None, description="A preset's name or a sentence.")
    runtime: str = "native"
    runtime_options: dict[str, Any] = Field(default_factory=dict)
    hub: str = "huggingface"
    device: str = "auto"
    dtype: str = "auto"
    max_length: int = Field(default=8192, ge=2)
    adaptive: bool = Field(
        default=False, description="Texts come best first; stop once ten bring none into the best `top_n`."
    )
    _built: tuple[dict[str, Any], Reranker | Cascade] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.current_reranker()
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        before = dict(self.__dict__)
        try:
            super().__setattr__(name, value)
        except ValidationError:
            # pydantic keeps a value that a model validator rejected.
            self.__dict__.update(before)
            raise

    def current_reranker(self) -> RerankerProtocol:
        """The reranker that the current fields describe; weights load at first use."""
        settings = {name: getattr(self, name) for name in SETTINGS}
        changed = {name: value for name, value in settings.items() if value != self._default(name)}
        if self.reranker is not None:
            check_model(self.reranker, RerankerProtocol, "reranker")
            if changed:
                raise ValueError(f"{', '.join(changed)} set together with reranker; expected one or the other")
            self._built = None
            return self.reranker  # type: ignore[no-any-return]
        with _building:
            if self._built is None or self._built[0] != settings:
                reranker = named_reranker(**changed | {"model": self.model or DEFAULT_MODEL})
                self._built = copy.deepcopy(settings), reranker
            return self._built[1]

    def reader(self, top_n: int) -> RerankerProtocol:
        """The current reranker; with `adaptive`, one that leaves texts unread that are not among the best `top_n`."""
        reranker = self.current_reranker()
        return adaptive(reranker, top_n) if self.adaptive else reranker

    @classmethod
    def _default(cls, name: str) -> Any:
        return cls.model_fields[name].get_default(call_default_factory=True)
