"""What embedder and reranker have in common: a model by name, checked when made, loaded at first use."""

import importlib
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from qwen3_rag.arguments import DTYPES, NOTHING, at_least, check_instructions, one_of
from qwen3_rag.errors import ModelError
from qwen3_rag.forking import Forked, forget_in_child
from qwen3_rag.models.runtimes import Loaded, planned
from qwen3_rag.models.runtimes.registry import Kind, check_options, find
from qwen3_rag.models.sources import resolve
from qwen3_rag.prompts import resolve_instruction

__all__ = ["NamedModel"]

Running = TypeVar("Running", bound=Loaded)


class _Process:
    """Whether models compute in this process, or did in the one that it was forked from."""

    computes = False
    forked_from_one_that_did = False

    @classmethod
    def after_fork(cls) -> None:
        cls.computes, cls.forked_from_one_that_did = False, cls.computes or cls.forked_from_one_that_did


forget_in_child(_Process.after_fork)
_ABANDONED: list[Loaded | None] = []


class NamedModel(Forked, Generic[Running]):
    """Arguments of a model, and the runtime with its weights once they are needed. Arguments as in the subclasses.

    A copy or a pickle is the arguments alone, a local folder by its full path: it loads the weights at its own first
    use.
    """

    kind: ClassVar[Kind]

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        instruction: str | None = None,
        instructions: Mapping[str, str] = NOTHING,
        max_length: int = 8192,
        revision: str | None = None,
        runtime: str = "native",
        runtime_options: Mapping[str, Any] = NOTHING,
    ) -> None:
        find(self.kind, runtime)
        hub = runtime_options.get("hub", "huggingface") if isinstance(runtime_options, Mapping) else "huggingface"
        self.source = resolve(self.kind, model, revision, hub)
        if runtime == "native" and self.source.preset and self.source.preset.runtime:
            runtime = self.source.preset.runtime
        self.model, self.runtime = model, runtime
        self.device, self.dtype = device, one_of(dtype, DTYPES, "dtype")
        self.max_length = at_least(max_length, 2, "max_length")
        self.instructions = check_instructions(instructions)
        self.instruction = instruction
        resolve_instruction(instruction, self.instructions)
        self.runtime_options = check_options(runtime_options, self.kind, runtime)
        self.revision = self.source.revision
        self._loaded: Running | None = None
        self._lock = threading.Lock()
        super().__init__()

    def after_fork_in_child(self) -> None:
        """Begin without weights, whose threads are the parent's, or connections to a server."""
        # Kept for ever: letting it go here could end an engine or close connections that the parent uses.
        _ABANDONED.append(self._loaded)
        self._loaded, self._lock = None, threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"source": replace(self.source, model=self.source.absolute), "_loaded": None}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The source is checked again: where a pickle arrives, a local folder may not exist.
        self.__dict__.update(state | {"source": replace(state["source"])})
        self._lock = threading.Lock()
        super().__init__()

    @property
    def loaded(self) -> Running:
        """The runtime with the weights; loads them at first use.

        Raises:
            ModelError: They cannot be loaded or cannot serve, or this process was forked from one that had loaded a
                model: PyTorch's threads do not survive a fork, and would be waited for without end.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self, **further: Any) -> Running:
        found = find(self.kind, self.runtime)
        make = getattr(importlib.import_module(f"qwen3_rag.models.runtimes.{found.module}"), found.name)
        options = {key: value for key, value in self.runtime_options.items() if key != "hub"}
        if not found.remote:
            if _Process.forked_from_one_that_did:
                raise ModelError(
                    f"{self.model!r} cannot compute in a process forked after a model was loaded; expected to be "
                    "loaded after the fork only (models load at first use), or a process started by spawn"
                )
            _Process.computes = True
        place: tuple[Any, ...] = (self.runtime, self.source) if found.remote else (self._fetched(),)
        loaded: Running = make(
            *place, device=self.device, dtype=self.dtype, max_length=self.max_length, options=options, **further
        )
        return loaded

    def _fetched(self) -> Path:
        folder = self.source.folder()
        self.revision = self.source.revision_of(folder)
        return folder

    def unload(self) -> None:
        """Let the weights go; the next use loads them again."""
        with self._lock:
            self._loaded = None

    @property
    def runs_on(self) -> dict[str, str]:
        """Device, dtype and attention: as loaded, or as they will be."""
        return self._loaded.runs_on if self._loaded else planned(self)

    def describe(self) -> dict[str, Any]:
        """Arguments that make this model again, as JSON; the revision is the one found, once loaded."""
        return {
            "model": self.source.absolute,
            "device": self.device,
            "dtype": self.dtype,
            "max_length": self.max_length,
            "instruction": self.instruction,
            "instructions": self.instructions,
            "revision": self.revision,
            "runtime": self.runtime,
            # The name of a variable with a key is the caller's matter: a store that was passed on must not choose it.
            "runtime_options": {k: v for k, v in self.runtime_options.items() if k != "api_key_env"},
        }
