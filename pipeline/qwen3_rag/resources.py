"""Where the files shipped with the package and the user's cache are."""

import os
from pathlib import Path

__all__ = ["cache_folder", "data_folder"]


def data_folder(name: str) -> Path:
    """Folder `data/<name>` as shipped: inside the installed package, or beside the source tree.

    Raises:
        FileNotFoundError: The installation lacks it.
    """
    package = Path(__file__).parent
    for root in (package / "data", package.parents[1] / "data"):
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(f"this installation of qwen3-rag has no data/{name}; reinstall it or use the repository")


def cache_folder() -> Path:
    """Folder for files kept per user: `$QWEN3_RAG_CACHE`, else `qwen3-rag` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if chosen := os.environ.get("QWEN3_RAG_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen3-rag"
