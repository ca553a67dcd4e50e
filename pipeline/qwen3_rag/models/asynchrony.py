"""Blocking calls from async code: threads of their own, enough of them to fill the model's batches."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from qwen3_rag.arguments import check_cancel
from qwen3_rag.forking import forget_in_child

__all__ = ["in_thread"]

# Waiting callers cost a thread each; asyncio's own pool has six of them on two cores, too few to fill a batch.
THREADS = 64
Result = TypeVar("Result")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="qwen3-rag")


forget_in_child(_pool.cache_clear)


async def in_thread(call: Callable[..., Result], *given: Any, **options: Any) -> Result:
    """Run `call` in a thread; when the task that waits is cancelled, `cancel` is set, by which the call ends early.

    Args:
        call: Takes `cancel=`, a `threading.Event`; one that the caller gives is used.
        given: Its positional arguments.
        options: Its keyword arguments.
    """
    cancel = check_cancel(options.pop("cancel", None)) or threading.Event()
    future = asyncio.get_running_loop().run_in_executor(_pool(), lambda: call(*given, cancel=cancel, **options))
    try:
        return await future
    except asyncio.CancelledError:
        cancel.set()
        raise
