"""Where models come from, with the real clients offline and their caches laid out by hand."""

import inspect
import shutil
from pathlib import Path

import pytest

from qwen3_rag import Embedder, Reranker
from qwen3_rag.errors import InvalidArgumentError, MissingDependencyError, ModelError, UnknownNameError
from qwen3_rag.models.checkpoints.sources import resolve

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache that contains the tiny model under an official name, with a branch and a tag."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--Qwen--Qwen3-Reranker-0.6B"
    shutil.copytree(tiny_reranker, repository / "snapshots" / REVISION)
    (repository / "refs").mkdir()
    for name in ("main", "v1"):
        (repository / "refs" / name).write_text(REVISION)
    return tmp_path


@pytest.mark.parametrize("size", ["0.6b", "4b", "8b"])
def test_presets_are_the_official_names(size: str) -> None:
    assert resolve("embedder", size, None, "huggingface").preset.model == f"Qwen/Qwen3-Embedding-{size.upper()}"
    assert resolve("reranker", size.upper(), None, "modelscope").preset.model == f"Qwen/Qwen3-Reranker-{size.upper()}"


@pytest.mark.parametrize("name", ["0.6b", "Qwen/Qwen3-Reranker-0.6B"])
@pytest.mark.parametrize("revision", [None, "main", "v1", REVISION])
def test_an_official_model_loads_from_the_local_cache(hub_cache: Path, name: str, revision: str | None) -> None:
    assert len(Reranker(name, revision=revision, dtype="float32").log_odds("q", ["a", "b"])) == 2


def test_the_error_names_a_model_that_is_not_in_the_cache(hub_cache: Path) -> None:
    with pytest.raises(ModelError, match="'Qwen/Qwen3-Reranker-8B' is neither in the local cache nor"):
        Reranker("8b").log_odds("q", ["a"])
    with pytest.raises(ModelError, match=r"'Qwen/Qwen3-Reranker-0\.6B' at revision 'v9'"):
        Reranker("0.6b", revision="v9").log_odds("q", ["a"])


def test_modelscope_downloads_through_its_own_client(tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import modelscope

    signature = inspect.signature(modelscope.snapshot_download)
    arguments = {}

    def download(*args: object, **options: object) -> str:
        arguments.update(signature.bind(*args, **options).arguments)
        return str(tiny_reranker)

    monkeypatch.setattr(modelscope, "snapshot_download", download)
    reranker = Reranker("0.6b", revision="v1", dtype="float32", hub="modelscope")
    assert len(reranker.log_odds("q", ["a"])) == 1
    assert (arguments["model_id"], arguments["revision"]) == ("Qwen/Qwen3-Reranker-0.6B", "v1")
    assert "*.safetensors" in arguments["allow_patterns"]
    assert not any(pattern.endswith((".bin", ".pt", ".pth")) for pattern in arguments["allow_patterns"])


@pytest.fixture
def modelscope_cache(tmp_path: Path, tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the real client, without a network."""
    import modelscope

    real = modelscope.snapshot_download

    def offline(name: str, *, local_files_only: bool = False, **options: object) -> str:
        if not local_files_only:
            raise ConnectionError("no network")
        return str(real(name, local_files_only=True, cache_dir=str(tmp_path), **options))

    monkeypatch.setattr(modelscope, "snapshot_download", offline)
    return tmp_path


def test_modelscope_loads_from_its_local_cache(modelscope_cache: Path, tiny_reranker: Path) -> None:
    snapshots = modelscope_cache / "models/Qwen--Qwen3-Reranker-4B/snapshots"
    shutil.copytree(tiny_reranker, snapshots / "master")
    reranker = Reranker("4b", dtype="float32", hub="modelscope")
    assert len(reranker.log_odds("q", ["a", "b"])) == 2


def test_the_error_names_a_model_that_modelscope_does_not_have(modelscope_cache: Path) -> None:
    with pytest.raises(ModelError, match="nor available from ModelScope: ConnectionError: no network"):
        Reranker("4b", hub="modelscope").log_odds("q", ["a"])


def test_the_error_names_a_missing_client(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'qwen3-rag\[modelscope\]'"):
        Reranker("4b", hub="modelscope").log_odds("q", ["a"])


def test_invalid_names_are_errors_at_construction(tmp_path: Path) -> None:
    for name in ("qwen3", "a/b/c", "C:\\model", "./nowhere"):
        with pytest.raises(UnknownNameError, match=r"expected one of: 0\.6b, 4b, 8b, demo"):
            Embedder(name)
    for wrong in ("", None, 3):
        with pytest.raises(InvalidArgumentError, match="expected a hub id, a folder or a preset's name"):
            Embedder(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="revision is 'v1', but"):
        Embedder(str(tmp_path), revision="v1")


def test_a_relative_model_folder_does_not_depend_on_the_current_folder_at_loading(
    tmp_path: Path, tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("A", "B"):
        (tmp_path / place).mkdir()
    shutil.copytree(tiny_reranker, tmp_path / "A/model")
    (tmp_path / "B/model").mkdir()
    monkeypatch.chdir(tmp_path / "A")
    relative = Reranker("model", dtype="float32")
    monkeypatch.setenv("HOME", str(tmp_path / "A"))
    at_home = Reranker("~/model", dtype="float32")
    monkeypatch.chdir(tmp_path / "B")
    for reranker in (relative, at_home):
        assert reranker.describe()["model"] == str((tmp_path / "A/model").resolve())
        assert reranker.log_odds("query", ["document"]).shape == (1,)


def test_a_reranker_rejects_a_cancel_that_is_not_an_event(tiny_reranker: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"cancel is True; expected a threading\.Event"):
        Reranker(str(tiny_reranker)).read("query", ["document"], cancel=True)
