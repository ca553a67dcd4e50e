"""Base class of `Embedder` and `Reranker`: a model named by its arguments, checked at once, loaded at first use."""

import importlib
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from qwen3_rag.arguments import DTYPES, NOTHING, at_least, check_instructions, one_of
from qwen3_rag.errors import ModelError
from qwen3_rag.forking import Forked, forget_in_child
from qwen3_rag.models.checkpoints.sources import Kind, resolve
from qwen3_rag.models.runtimes.protocols import Loaded
from qwen3_rag.models.runtimes.registry import check_options, find
from qwen3_rag.prompts import resolve_instruction

__all__ = ["NamedModel"]

Running = TypeVar("Running", bound=Loaded)


class _Process:
    """Whether this process, or the process it was forked from, has computed with a model."""

    computes = False
    parent_computed = False
    loading = threading.Lock()  # the libraries' own lazy imports fail if two threads load at once

    @classmethod
    def after_fork(cls) -> None:
        cls.computes, cls.parent_computed = False, cls.computes or cls.parent_computed
        cls.loading = threading.Lock()


forget_in_child(_Process.after_fork)
_ABANDONED: list[Loaded | None] = []


class NamedModel(Forked, Generic[Running]):
    """A model's arguments, and its runtime once the weights are needed. The subclasses document the arguments.

    Copies and pickles carry only the arguments, with a local folder as an absolute path; each loads the weights at its
    first use.
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
        hub: str = "huggingface",
        runtime: str = "native",
        runtime_options: Mapping[str, Any] = NOTHING,
    ) -> None:
        find(self.kind, runtime)
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
        """Drop the weights and connections, whose threads and sockets belong to the parent process."""
        # Never freed: freeing it here could stop an engine or close connections that the parent still uses.
        _ABANDONED.append(self._loaded)
        self._loaded, self._lock = None, threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"source": replace(self.source, model=self.source.absolute), "_loaded": None}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        # `replace` checks the source again: a local folder may not exist on the machine that loads the pickle.
        self.__dict__.update(state | {"source": replace(state["source"])})
        self._lock = threading.Lock()
        super().__init__()

    @property
    def loaded(self) -> Running:
        """The runtime with its weights, loaded at first use.

        Raises:
            ModelError: The weights cannot be loaded or used, or this process was forked after a model was loaded:
                PyTorch's threads do not survive a fork, so computing would hang.
        """
        with self._lock:
            if self._loaded is None:
                with nullcontext() if "://" in self.runtime else _Process.loading:
                    self._loaded = self._load()
            return self._loaded

    def warm_up(self) -> None:
        """Load the weights, and do now what would make a later call wait: compile the layers if that is to be done."""
        self.loaded.warm_up()

    def _load(self, **extra: Any) -> Running:
        spec = find(self.kind, self.runtime)
        runtime_class = getattr(importlib.import_module(f"qwen3_rag.models.runtimes.{spec.module}"), spec.name)
        if not spec.remote:
            if _Process.parent_computed:
                raise ModelError(
                    f"{self.model!r} cannot compute in a process forked after a model was loaded; expected to be "
                    "loaded after the fork only (models load at first use), or a process started by spawn"
                )
            _Process.computes = True
        location: tuple[Any, ...] = (self.runtime, self.source) if spec.remote else (self._fetch(),)
        loaded: Running = runtime_class(
            *location,
            device=self.device,
            dtype=self.dtype,
            max_length=self.max_length,
            options=self.runtime_options,
            **extra,
        )
        return loaded

    def _fetch(self) -> Path:
        folder = self.source.folder()
        self.revision = self.source.revision_of(folder)
        return folder

    def unload(self) -> None:
        """Free the weights; the next use loads them again."""
        with self._lock:
            self._loaded = None

    @property
    def runs_on(self) -> dict[str, str]:
        """Device, dtype and attention: actual once loaded, planned before."""
        return self._loaded.runs_on if self._loaded else self._planned()

    def _planned(self) -> dict[str, str]:
        if "://" in self.runtime:
            return {"device": self.runtime, "dtype": "the server's", "attention": "the server's"}
        from qwen3_rag.models.checkpoints.hardware import choose_device, choose_dtype
        from qwen3_rag.models.engine import attention

        device, folder = choose_device(self.device), Path(self.source.model) if self.source.is_folder else None
        dtype = choose_dtype(self.dtype, device, folder, int8=self.runtime == "native")
        name = {"transformers": "sdpa"}.get(self.runtime, self.runtime)
        runs_on = {"device": str(device), "dtype": str(dtype).removeprefix("torch."), "attention": name}
        if self.runtime == "native":
            runs_on["attention"], _ = attention.choose(self.runtime_options.get("attention", "auto"), device, dtype)
            runs_on["compiled"] = "yes" if self.runtime_options.get("compile") is True else "no"
        return runs_on

    def describe(self) -> dict[str, Any]:
        """Arguments that recreate this model, as JSON; once loaded, with the resolved revision."""
        return {
            "model": self.source.absolute,
            "device": self.device,
            "dtype": self.dtype,
            "max_length": self.max_length,
            "instruction": self.instruction,
            "instructions": self.instructions,
            "revision": self.revision,
            "hub": self.source.hub,
            "runtime": self.runtime,
            # A store received from someone else must not choose which environment variable is sent as a key.
            "runtime_options": {k: v for k, v in self.runtime_options.items() if k != "api_key_env"},
        }
