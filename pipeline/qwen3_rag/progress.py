"""One way to show long work: a bar on a terminal, a log line now and then elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]

LOG_EVERY = 10.0  # seconds
logger = logging.getLogger("qwen3_rag")


@contextmanager
def progress(label: str, total: int | None, show: bool = True) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts finished pieces of work.

    Args:
        label: What is being done.
        total: Pieces in all, None if not known.
        show: False gives a function that does nothing.
    """
    if not show:
        yield lambda _: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(label, total)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


def _log_lines(label: str, total: int | None) -> Callable[[int], None]:
    start = last = time.monotonic()
    done = 0

    def count(pieces: int) -> None:
        nonlocal last, done
        done += pieces
        now = time.monotonic()
        if now - last >= LOG_EVERY:
            last = now
            logger.info("%s: %d of %s, %.1f a second", label, done, total or "?", done / (now - start))

    return count
