"""What a fork leaves behind: threads, locks and connections of the parent, which a child cannot use.

Objects that hold such things subclass `Forked`; those still alive are told before and after every `os.fork`.
"""

import os
import threading
import weakref
from collections.abc import Callable

__all__ = ["Forked", "forget_in_child"]

_OBJECTS: "weakref.WeakSet[Forked]" = weakref.WeakSet()
_LOCK = threading.RLock()
_PREPARED: list["Forked"] = []
_CHILD: list[Callable[[], None]] = []


class Forked:
    """An object that is told of forks. Call `super().__init__()` once it is complete."""

    def __init__(self) -> None:
        with _LOCK:
            _OBJECTS.add(self)

    def before_fork(self) -> None:
        """In the parent, before. What is locked here is released by `after_fork_in_parent`."""

    def after_fork_in_parent(self) -> None:
        """In the parent, after."""

    def after_fork_in_child(self) -> None:
        """In the child, whose only thread is the one that forked: renew locks, drop threads."""


def forget_in_child(clear: Callable[[], None]) -> None:
    """Call a function in every forked child, as to clear a cache of thread pools."""
    _CHILD.append(clear)


def _before() -> None:
    _LOCK.acquire()
    _PREPARED.extend(sorted(_OBJECTS, key=id))
    for each in _PREPARED:
        each.before_fork()


def _in_parent() -> None:
    for each in reversed(_PREPARED):
        each.after_fork_in_parent()
    _PREPARED.clear()
    _LOCK.release()


def _in_child() -> None:
    global _LOCK
    _LOCK = threading.RLock()
    for each in _PREPARED:
        each.after_fork_in_child()
    _PREPARED.clear()
    for clear in _CHILD:
        clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
