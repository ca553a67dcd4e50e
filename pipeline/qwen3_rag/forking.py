"""Fork handling for objects with threads, locks or connections, which a forked child cannot use.

Such objects subclass `Forked`; the hooks of all live instances run before and after every `os.fork`.
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
    """Base class with hooks for forks. Call `super().__init__()` last, once the object is complete."""

    def __init__(self) -> None:
        with _LOCK:
            _OBJECTS.add(self)

    def before_fork(self) -> None:
        """Called in the parent before a fork; locks acquired here are released in `after_fork_in_parent`."""

    def after_fork_in_parent(self) -> None:
        """Called in the parent after a fork."""

    def after_fork_in_child(self) -> None:
        """Called in the child, which has only the forking thread: replace locks, drop threads."""


def forget_in_child(clear: Callable[[], None]) -> None:
    """Register a function to call in every forked child, such as one that clears a cache of thread pools."""
    _CHILD.append(clear)


def _before() -> None:
    _LOCK.acquire()
    _PREPARED.extend(sorted(_OBJECTS, key=id))
    for instance in _PREPARED:
        instance.before_fork()


def _in_parent() -> None:
    for instance in reversed(_PREPARED):
        instance.after_fork_in_parent()
    _PREPARED.clear()
    _LOCK.release()


def _in_child() -> None:
    global _LOCK
    _LOCK = threading.RLock()
    for instance in _PREPARED:
        instance.after_fork_in_child()
    _PREPARED.clear()
    for clear in _CHILD:
        clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
