"""A segment of words made in a process of its own, so that writing goes on at full speed beside it."""

import json
import logging
import subprocess
import sys
from pathlib import Path

from qwen3_rag.index.folder import Folder
from qwen3_rag.index.segments import SegmentName, write_segment
from qwen3_rag.index.store import Store

__all__ = ["write_beside"]

GIVEN_UP = 3  # exit code: the passages are numbered anew, or gone
LONGEST = 600  # seconds
logger = logging.getLogger("qwen3_rag")


def write_beside(place: Folder | Path, generation: int, first: int, rows: int) -> SegmentName | None:
    """As `write_segment` for passages of a store; None if that cannot be done in another process here."""
    folder = Folder.of(place)
    identity = (folder.identity or b"").hex()
    command = [sys.executable, "-m", __name__, str(folder.path), identity, str(generation), str(first), str(rows)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=True)
        return SegmentName(**json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        logger.debug("words are not counted in another process: %s", error)
        return None


def main() -> int:
    """Write the segment that the arguments name, and print what the store is to keep of it."""
    folder = Path(sys.argv[1])
    identity, (generation, first, rows) = bytes.fromhex(sys.argv[2]), map(int, sys.argv[3:])
    store = Store.open(folder)
    if identity not in (b"", store.files.identity):
        return GIVEN_UP
    with store.snapshot():
        state = store.state()
        if state.generation != generation or state.rows < first + rows:
            return GIVEN_UP
        name = write_segment(store.files, generation, first, rows, store.searched(first, first + rows))
    store.close()
    sys.stdout.write(json.dumps(name.describe()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
