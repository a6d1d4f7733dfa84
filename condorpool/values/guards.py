"""A debug switch: with CONDORPOOL_DEBUG_LOCKS set, breaches of the lock rule raise.

They are writes without the lock, and work on the disk, the network or HTCondor with it.
Without the switch nothing is changed, so that checks cost nothing.
"""

from __future__ import annotations

import collections
import functools
import operator
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from condorpool.values.locks import Monitor

T = TypeVar("T")

DEBUG = bool(os.environ.get("CONDORPOOL_DEBUG_LOCKS"))

#: Breaches, for tests: a thread may log the exception and continue.
breaches: list[str] = []

#: What may take minutes: events of ``sys.audit``, and functions of ``os`` that have none.
_SLOW = {"open", "import", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "htcondor"}
_SLOW |= {f"fcntl.{name}" for name in ("flock", "lockf")}
_SLOW |= {f"os.{name}" for name in "chmod link listdir lockf mkdir posix_spawn remove".split()}
_SLOW |= {f"os.{name}" for name in "rename rmdir scandir symlink truncate utime".split()}
_UNHEARD = ("stat", "lstat", "statvfs", "readlink", "access", "fsync")
_SLOW |= {f"os.{name}" for name in _UNHEARD}

#: The methods that change a container; the first adds the items of another container.
_CHANGING: dict[type, str] = {
    dict: "update __setitem__ __delitem__ __ior__ clear pop popitem setdefault",
    list: "extend __setitem__ __delitem__ __iadd__ append clear insert pop remove reverse sort",
    set: "update __iand__ __ior__ __isub__ __ixor__ add clear difference_update discard "
    "intersection_update pop remove symmetric_difference_update",
    collections.Counter: "update __setitem__ __delitem__ __ior__ __iadd__ __isub__ clear pop "
    "popitem setdefault subtract",
}


def guarded(by: str) -> Callable[[type[T]], type[T]]:
    """Return a class decorator: only threads that hold a lock may change instances.

    It checks writes of attributes and changes of dicts, lists and sets that are attributes.
    The first value of an attribute, as ``__init__`` sets it, needs no lock.

    Parameters
    ----------
    by
        The attribute path from an instance to its `Monitor`: ``"cluster.crew.lock"``.  Where
        that is None, the instance is not shared between threads and not checked.
    """

    def decorate(cls: type[T]) -> type[T]:
        if DEBUG:
            check(cls, by)
        return cls

    return decorate


def check(cls: type, by: str) -> None:
    """Check every write to instances of a class."""
    lock_of = operator.attrgetter(by)

    def check_lock(instance: object, name: str) -> None:
        lock: Monitor | None = lock_of(instance)
        if lock is not None and not lock.is_held:
            breach = f"{cls.__name__}.{name} is written without the lock that guards it"
            breaches.append(breach)
            raise AssertionError(breach)

    def set_attribute(instance: object, name: str, value: Any) -> None:
        if hasattr(instance, name):
            check_lock(instance, name)
        if type(value) in _CHANGING:
            # Weak: the checks must not keep an instance alive.
            value = _checked(value, check_lock, weakref.ref(instance), name)
        object.__setattr__(instance, name, value)

    cls.__setattr__ = set_attribute  # type: ignore[assignment, method-assign]


def _checked(
    values: Any,
    check_lock: Callable[[object, str], None],
    instance: Callable[[], object],
    name: str,
) -> Any:
    """Return a copy of the container that checks the lock of its instance before each change."""

    def check() -> None:
        if (alive := instance()) is not None:
            check_lock(alive, name)

    kind: type = type(values)
    made = _checked_class(kind)()
    fill, *_ = _CHANGING[kind].split()
    getattr(kind, fill)(made, values)
    made.check_lock = check
    return made


@functools.cache
def _checked_class(kind: Any) -> Any:
    def changing(name: str) -> Callable[..., Any]:
        method = getattr(kind, name)

        def change(self: Any, *args: Any, **kwargs: Any) -> Any:
            if check_lock := getattr(self, "check_lock", None):  # None while it is filled
                check_lock()
            return method(self, *args, **kwargs)

        return change

    names = _CHANGING[kind].split()
    return type(kind.__name__, (kind,), {name: changing(name) for name in names})


class _Held(threading.local):
    """How many locks this thread holds."""

    depth = 0


def watch_waits() -> None:
    """Check that no thread waits for a disk, the network or HTCondor while it holds a lock."""
    held = _Held()
    enter, leave = Monitor.__enter__, Monitor.__exit__

    def enter_noted(monitor: Monitor) -> None:
        enter(monitor)
        held.depth += 1

    def leave_noted(monitor: Monitor, *error: object) -> None:
        held.depth -= 1
        leave(monitor, *error)

    def hear(event: str, args: Sequence[object]) -> None:
        if event in _SLOW and held.depth:
            breach = f"{event}{tuple(args[:1])} with a lock held"
            breaches.append(breach)
            raise AssertionError(breach)

    def heard(event: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            hear(event, args)
            return function(*args, **kwargs)

        return call

    Monitor.__enter__, Monitor.__exit__ = enter_noted, leave_noted  # type: ignore[method-assign]
    for name in _UNHEARD:
        setattr(os, name, heard(f"os.{name}", getattr(os, name)))
    sys.addaudithook(hear)


if DEBUG:
    watch_waits()
