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
    label: str, total: int | None, show: bool = True, unit: str = "", part: str = "", size: int = 0
) -> Iterator[Callable[..., None]]:
    """Yield a function that counts finished items, and optionally their parts and their size.

    Args:
        label: Name of the operation.
        total: Number of items; None if unknown.
        show: If False, the function does nothing.
        unit: Name of an item, such as "files".
        part: Name of a part, such as "passages"; the function then also takes their number.
        size: Size of all items together, where items differ much; the function then also takes a size, and the time
            left is estimated from it.
    """
    if not show:
        yield lambda *_: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(_Count(label, total, unit, part, size))
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn(label),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        count = _Count(label, total, unit, part, size)
        task = bar.add_task(str(count), total=size or total)

        def advance(items: int, parts: int = 0, size: int = 0) -> None:
            count.add(items, parts, size)
            bar.update(task, completed=count.size_done if count.size else count.done, description=str(count))

        yield advance


class _Count:
    """What is done of an operation."""

    def __init__(self, label: str, total: int | None, unit: str, part: str, size: int) -> None:
        self.label, self.total, self.unit, self.part, self.size = label, total, unit, part, size
        self.done = self.parts = self.size_done = 0
        self.started = time.monotonic()

    def add(self, items: int, parts: int, size: int) -> None:
        self.done, self.parts, self.size_done = self.done + items, self.parts + parts, self.size_done + size

    @property
    def left(self) -> float | None:
        """Seconds left; None if unknown."""
        done, total = (self.size_done, self.size) if self.size else (self.done, self.total or 0)
        return (total - done) / done * (time.monotonic() - self.started) if done and total else None

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self.started, 1e-6)
        amount = f"{self.done} of {self.total or '?'}" + (f" {self.unit}" if self.unit else "")
        if self.part:
            return f"{amount}, {self.parts} {self.part}, {self.parts / seconds:.1f} a second"
        return f"{amount}, {self.done / seconds:.1f} a second"


def _log_lines(count: _Count) -> Callable[..., None]:
    last = count.started

    def log(items: int, parts: int = 0, size: int = 0) -> None:
        nonlocal last
        count.add(items, parts, size)
        if (now := time.monotonic()) - last >= LOG_EVERY:
            last = now
            left = "" if count.left is None else f", {count.left:.0f} s left"
            logger.info("%s: %s%s", count.label, count, left)

    return log
