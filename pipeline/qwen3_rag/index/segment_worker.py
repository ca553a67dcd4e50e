"""Writes a segment in a separate process, so that indexing does not slow down the writer."""

import json
import logging
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from qwen3_rag.index.commit import SegmentName
from qwen3_rag.index.folder import Folder
from qwen3_rag.index.segments import write_segment
from qwen3_rag.index.store import Store

__all__ = ["write_in_process"]

STALE = 3  # exit code: the passages were renumbered or do not exist
TIMEOUT = 600  # seconds
logger = logging.getLogger("qwen3_rag")


def write_in_process(location: Folder | Path, generation: int, first: int, rows: int) -> SegmentName | None:
    """As `write_segment`, for passages of a store, in a separate process; None if that process fails."""
    folder = Folder.of(location)
    identity = (folder.identity or b"").hex()
    command = [sys.executable, "-m", __name__, str(folder.path), identity, str(generation), str(first), str(rows)]
    try:
        worker = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
        return SegmentName(**json.loads(worker.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        logger.debug("no segment was written in a separate process: %s", error)
        return None


def main() -> int:
    """Write the segment that the arguments describe, and print its `SegmentName` as JSON."""
    folder = Path(sys.argv[1])
    identity, (generation, first, rows) = bytes.fromhex(sys.argv[2]), map(int, sys.argv[3:])
    store = Store.open(folder)
    if identity not in (b"", store.files.identity):
        return STALE
    with store.snapshot() as commit:
        if commit.generation != generation or commit.rows < first + rows:
            return STALE
        name = write_segment(store.files, generation, first, rows, store.searched(first, first + rows))
    store.close()
    sys.stdout.write(json.dumps(asdict(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
