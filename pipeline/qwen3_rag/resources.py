"""Locations of the files shipped with the package and of the user's cache."""

import os
from pathlib import Path

__all__ = ["cache_folder", "data_folder"]


def data_folder(name: str) -> Path:
    """Folder `data/<name>` as shipped: inside the installed package, or beside the source tree.

    Raises:
        FileNotFoundError: The folder is not part of this installation.
    """
    package = Path(__file__).parent
    for root in (package / "data", package.parents[1] / "data"):
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(
        f"this installation of qwen3-rag has no data/{name}; reinstall it or run from the repository"
    )


def cache_folder() -> Path:
    """The user's cache folder: `$QWEN3_RAG_CACHE`, else `qwen3-rag` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if folder := os.environ.get("QWEN3_RAG_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen3-rag"
