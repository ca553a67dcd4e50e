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

# safetensors only: loading a pickled checkpoint runs code.
INCLUDED_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
EXCLUDED_FILES = ["onnx/*", "openvino/*", "*.onnx"]
HUBS = ("huggingface", "modelscope")


@dataclass(frozen=True)
class Preset:
    """What a short name stands for: a hub id or a function that creates the folder, and a runtime if it needs one."""

    model: str | Callable[[], Path]
    runtime: str | None = None


def _demo_embedder() -> Path:
    from qwen3_rag.models.checkpoints.demo import demo_embedder

    return demo_embedder()


def _demo_reranker() -> Path:
    from qwen3_rag.models.checkpoints.demo import demo_reranker

    return demo_reranker()


def _demo_minilm() -> Path:
    from qwen3_rag.models.checkpoints.demo import demo_minilm

    return demo_minilm()


PRESETS: dict[Kind, dict[str, Preset]] = {
    "embedder": {size: Preset(f"Qwen/Qwen3-Embedding-{size.upper()}") for size in ("0.6b", "4b", "8b")}
    | {"demo": Preset(_demo_embedder, runtime="sentence-transformers")},
    "reranker": {size: Preset(f"Qwen/Qwen3-Reranker-{size.upper()}") for size in ("0.6b", "4b", "8b")}
    | {"demo": Preset(_demo_reranker), "demo-minilm": Preset(_demo_minilm, runtime="sentence-transformers")},
}


@dataclass(frozen=True)
class Source:
    """A model as the user named it: checked, not yet downloaded."""

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
            raise InvalidArgumentError(
                f"revision is {self.revision!r}, but {self.model!r} is not on a hub; expected None"
            )

    @property
    def preset(self) -> Preset | None:
        """The preset with this name, or None."""
        return PRESETS[self.kind].get(self.model.lower())

    @property
    def is_folder(self) -> bool:
        """Whether the name is a local folder; a preset's name wins over a folder of the same name."""
        return self.preset is None and Path(self.model).is_dir()

    @property
    def absolute(self) -> str:
        """The name in a form that other processes can use: a folder becomes an absolute path."""
        return str(Path(self.model).resolve()) if self.is_folder else self.model

    def folder(self) -> Path:
        """The folder with the model's files, downloaded if necessary.

        Raises:
            ModelError: The model cannot be downloaded and is not in the local cache.
            MissingDependencyError: `hub="modelscope"` without its client.
        """
        if self.is_folder:
            return Path(self.model)
        name = self.preset.model if self.preset else self.model
        if callable(name):
            return name()
        return _from_modelscope(name, self.revision) if self.hub == "modelscope" else _from_hub(name, self.revision)

    def revision_of(self, folder: Path) -> str | None:
        """The resolved revision: the commit if the folder is in Hugging Face's cache, else the requested revision."""
        cached = self.hub == "huggingface" and not self.is_folder and folder.parent.name == "snapshots"
        return folder.name if cached else self.revision


def resolve(kind: Kind, model: str, revision: str | None, hub: str) -> Source:
    """Check a model's name without downloading; a folder becomes an absolute path, so that chdir does not matter.

    Raises:
        UnknownNameError: The name is no preset, folder or hub id, or the hub is unknown.
    """
    if isinstance(model, str) and model and model.lower() not in PRESETS[kind]:
        path = as_path(model, "model")
        model = str(path.absolute()) if path.is_dir() else model
    return Source(kind, model, revision, hub)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=INCLUDED_FILES, ignore_patterns=EXCLUDED_FILES
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise _not_found(name, revision, "Hugging Face", error) from error
    return Path(str(folder))


def _from_modelscope(name: str, revision: str | None) -> Path:
    try:
        from modelscope import snapshot_download
        from modelscope_hub.errors import HubError
    except ImportError as error:
        raise MissingDependencyError("modelscope", 'hub="modelscope"', "pip install 'qwen3-rag[modelscope]'") from error
    options = {"revision": revision, "allow_patterns": INCLUDED_FILES, "ignore_patterns": EXCLUDED_FILES}
    failures = (HubError, OSError, ValueError, RuntimeError)
    try:
        return Path(snapshot_download(name, **options))
    except failures as error:
        # Its client contacts the hub first and does not fall back to its cache.
        try:
            return Path(snapshot_download(name, local_files_only=True, **options))
        except failures:
            raise _not_found(name, revision, "ModelScope", error) from error


def _not_found(name: str, revision: str | None, hub: str, error: Exception) -> ModelError:
    at = f" at revision {revision!r}" if revision else ""
    reason = str(error).strip().splitlines()
    return ModelError(
        f"model {name!r}{at} is neither in the local cache nor available from {hub}: "
        f"{type(error).__name__}: {reason[0] if reason else ''}"
    )
