"""Where a model's files come from: a preset, a local folder, Hugging Face or ModelScope."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwen3_rag.arguments import as_path
from qwen3_rag.errors import InvalidArgumentError, MissingDependencyError, ModelError, UnknownNameError

__all__ = ["PRESETS", "Kind", "Preset", "Source", "resolve"]

Kind = Literal["embedder", "reranker"]

# safetensors only: a pickled checkpoint runs code when it is read.
WANTED_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
UNWANTED_FILES = ["onnx/*", "openvino/*", "*.onnx"]
HUBS = ("huggingface", "modelscope")


@dataclass(frozen=True)
class Preset:
    """A short name's meaning: a hub id, or a function that makes the folder, and the runtime it needs if only one."""

    model: str | Callable[[], Path]
    runtime: str | None = None


def _demo_embedder() -> Path:
    from qwen3_rag.models.demo import demo_embedder

    return demo_embedder()


def _demo_reranker() -> Path:
    from qwen3_rag.models.demo import demo_reranker

    return demo_reranker()


PRESETS: dict[Kind, dict[str, Preset]] = {
    "embedder": {size: Preset(f"Qwen/Qwen3-Embedding-{size.upper()}") for size in ("0.6b", "4b", "8b")}
    | {"demo": Preset(_demo_embedder, runtime="sentence-transformers")},
    "reranker": {size: Preset(f"Qwen/Qwen3-Reranker-{size.upper()}") for size in ("0.6b", "4b", "8b")}
    | {"demo": Preset(_demo_reranker)},
}


@dataclass(frozen=True)
class Source:
    """A model as named by the user, checked, not yet fetched."""

    kind: Kind
    model: str
    revision: str | None = None
    hub: str = "huggingface"

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise InvalidArgumentError(f"model is {self.model!r}; expected a hub id, a folder or a preset's name")
        if self.hub not in HUBS:
            raise UnknownNameError("hub", self.hub, list(HUBS))
        if self.preset is None and not self.is_folder and Path(self.model).is_absolute():
            raise InvalidArgumentError(f"model folder {self.model!r} does not exist")
        if (
            self.preset is None
            and not self.is_folder
            and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", self.model)
        ):
            raise UnknownNameError(
                self.kind, self.model, sorted(PRESETS[self.kind]), "Or a folder that exists, or a hub id 'owner/name'."
            )
        if self.revision is not None and (self.is_folder or (self.preset and callable(self.preset.model))):
            raise InvalidArgumentError(f"revision={self.revision!r} given with {self.model!r}, which is not on a hub")

    @property
    def preset(self) -> Preset | None:
        """The preset of this name, if there is one."""
        return PRESETS[self.kind].get(self.model.lower())

    @property
    def is_folder(self) -> bool:
        """Whether the name is a local folder; a preset's name wins over a folder of the same name."""
        return self.preset is None and Path(self.model).is_dir()

    @property
    def absolute(self) -> str:
        """The name as another process can use it: a folder by its full path."""
        return str(Path(self.model).resolve()) if self.is_folder else self.model

    def folder(self) -> Path:
        """The folder with the model's files, fetched if need be.

        Raises:
            ModelError: It cannot be fetched and is not in the local cache.
            MissingDependencyError: `hub="modelscope"` without its client.
        """
        if self.is_folder:
            return Path(self.model)
        name = self.preset.model if self.preset else self.model
        if callable(name):
            return name()
        return _from_modelscope(name, self.revision) if self.hub == "modelscope" else _from_hub(name, self.revision)

    def revision_of(self, folder: Path) -> str | None:
        """The revision that was found: in Hugging Face's cache the commit, otherwise the one asked for."""
        cached = self.hub == "huggingface" and not self.is_folder and folder.parent.name == "snapshots"
        return folder.name if cached else self.revision


def resolve(kind: Kind, model: str, revision: str | None, hub: str) -> Source:
    """Check a model's name without fetching it. A folder is taken by its full path, whatever folder is current later.

    Raises:
        UnknownNameError: It is neither a preset nor a folder nor a hub id; or the hub is unknown.
    """
    if isinstance(model, str) and model and model.lower() not in PRESETS[kind]:
        path = as_path(model, "model")
        model = str(path.absolute()) if path.is_dir() else model
    return Source(kind, model, revision, hub)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, revision=revision, allow_patterns=WANTED_FILES, ignore_patterns=UNWANTED_FILES)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise _not_found(name, revision, "Hugging Face", error) from error
    return Path(str(found))


def _from_modelscope(name: str, revision: str | None) -> Path:
    try:
        from modelscope import snapshot_download
        from modelscope_hub.errors import HubError
    except ImportError as error:
        raise MissingDependencyError("modelscope", 'hub="modelscope"', "pip install 'qwen3-rag[modelscope]'") from error
    wanted = {"revision": revision, "allow_patterns": WANTED_FILES, "ignore_patterns": UNWANTED_FILES}
    failures = (HubError, OSError, ValueError, RuntimeError)
    try:
        return Path(snapshot_download(name, **wanted))
    except failures as error:
        # Its client asks the hub first and does not fall back to its own cache.
        try:
            return Path(snapshot_download(name, local_files_only=True, **wanted))
        except failures:
            raise _not_found(name, revision, "ModelScope", error) from error


def _not_found(name: str, revision: str | None, hub: str, error: Exception) -> ModelError:
    at = f" at revision {revision!r}" if revision else ""
    reason = str(error).strip().splitlines()
    return ModelError(
        f"model {name!r}{at} is neither in the local cache nor to be had from {hub}: "
        f"{type(error).__name__}: {reason[0] if reason else ''}"
    )
