"""The thread that engines compute on.

OpenMP keeps helpers for each thread that computes. Once there are more of them than cores they sleep after every
operation rather than wait for the next, which costs callers in several threads a sixth of the speed on a CPU.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from qwen3_rag.forking import forget_in_child

__all__ = ["computed", "use_one_thread"]

Result = TypeVar("Result")


class _Compute:
    """The one thread of this process, once there is one; and whether the main thread has computed before."""

    thread: ThreadPoolExecutor | None = None
    on_main = False
    lock = threading.Lock()

    @classmethod
    def forget(cls) -> None:
        cls.thread, cls.on_main, cls.lock = None, False, threading.Lock()


forget_in_child(_Compute.forget)


def use_one_thread() -> None:
    """Have all engines of this process compute on one thread, which suits a server with many callers on a CPU."""
    with _Compute.lock:
        _Compute.thread = _Compute.thread or ThreadPoolExecutor(1, "qwen3-rag-compute")


def computed(on_cpu: bool, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Call a function that computes, on the thread that is for it.

    A program whose main thread calls first goes on in its callers' threads: the main thread's helpers stay. One whose
    other threads call first, as in web servers and under asyncio, gets one thread for all.

    Args:
        on_cpu: Whether it computes on the CPU.
        function: The function.
        arguments: Its arguments.
        options: Its named arguments.
    """
    if _Compute.thread is None and on_cpu and not _Compute.on_main:
        if threading.current_thread() is threading.main_thread():
            _Compute.on_main = True
        else:
            use_one_thread()
    if _Compute.thread is None:
        return function(*arguments, **options)
    future = _Compute.thread.submit(function, *arguments, **options)
    try:
        return future.result()
    except BaseException:
        wait([future])  # after Ctrl-C: what it works with must not change meanwhile
        raise
