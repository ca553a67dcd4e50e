"""Runs blocking calls from async code in a dedicated thread pool, large enough to fill the model's batches."""

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from qwen3_rag.arguments import check_cancel
from qwen3_rag.forking import forget_in_child

__all__ = ["in_thread"]

# Each waiting caller occupies a thread. asyncio's default pool has six on two cores, too few to fill a batch.
THREADS = 64
Result = TypeVar("Result")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="qwen3-rag")


forget_in_child(_pool.cache_clear)


async def in_thread(call: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Run `call` in a thread; cancelling the awaiting task sets `cancel`, which ends the call early.

    Args:
        call: Accepts `cancel=`, a `threading.Event`.
        arguments: Positional arguments of `call`.
        options: Keyword arguments of `call`; a `cancel` among them is used in place of a new event.
    """
    cancel = check_cancel(options.pop("cancel", None)) or threading.Event()
    context = contextvars.copy_context()
    work = functools.partial(context.run, call, *arguments, cancel=cancel, **options)
    future = asyncio.get_running_loop().run_in_executor(_pool(), work)
    try:
        return await future
    except asyncio.CancelledError:
        cancel.set()
        raise
