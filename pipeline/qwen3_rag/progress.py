"""Progress of long operations: a bar on a terminal, periodic log lines elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]

LOG_EVERY = 10.0  # seconds
logger = logging.getLogger("qwen3_rag")


@contextmanager
def progress(
    label: str, total: int | None, show: bool = True, unit: str = "", part: str = ""
) -> Iterator[Callable[..., None]]:
    """Yield a function that counts finished items, and optionally their parts.

    Args:
        label: Name of the operation.
        total: Number of items; None if unknown.
        show: If False, the function does nothing.
        unit: Name of an item, such as "files".
        part: Name of a part, such as "passages"; the function then also takes their number.
    """
    if not show:
        yield lambda *_: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(label, total, unit, part)
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
        TextColumn(unit + "{task.fields[parts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total, parts="")
        start, sum_of_parts = time.monotonic(), 0

        def advance(pieces: int, parts: int = 0) -> None:
            nonlocal sum_of_parts
            sum_of_parts += parts
            rate = f"{sum_of_parts / (time.monotonic() - start):.1f}" if part else ""
            bar.update(task, advance=pieces, parts=f", {sum_of_parts} {part}, {rate} a second" if part else "")

        yield advance


def _log_lines(label: str, total: int | None, unit: str, part: str) -> Callable[..., None]:
    start = last = time.monotonic()
    done = done_parts = 0

    def count(pieces: int, parts: int = 0) -> None:
        nonlocal last, done, done_parts
        done += pieces
        done_parts += parts
        now = time.monotonic()
        if now - last >= LOG_EVERY:
            last, seconds = now, now - start
            rate = f"{done_parts} {part}, {done_parts / seconds:.1f}" if part else f"{done / seconds:.1f}"
            left = f", {(total - done) / done * seconds:.0f} s left" if total and done else ""
            logger.info("%s: %d of %s%s, %s a second%s", label, done, total or "?", unit and f" {unit}", rate, left)

    return count
