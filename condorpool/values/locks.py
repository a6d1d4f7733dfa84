"""Locks that Control-C cannot break, and news that waits are woken by.

Python raises KeyboardInterrupt in the main thread between any two steps.  Between
taking a lock and noting that it is taken, or half-way through a change, it leaves
what no other thread can go on from: a lock that is never given back, calls that no
job will make.  So SIGINT is kept waiting there, for as long as that takes.
"""

from __future__ import annotations

import _signal  # signal.py makes enumerations: 8 us a call
import _thread
import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any


class _Interrupts:
    """What has become of SIGINT in the main thread.  One for the process: so are signals."""

    def __init__(self) -> None:
        self.depth = 0
        #: Whose turn it is when SIGINT is kept waiting no more; None as long as it is not.
        self.handler: Callable[[int, Any], Any] | None = None
        #: Whether the main thread is in a wait, which may be interrupted at any point.
        self.in_wait = False
        self.has_come = False

    def take(self, signum: int, frame: Any) -> None:
        """Handle SIGINT: now in a wait, later elsewhere."""
        if self.in_wait and self.handler:
            self.handler(signum, frame)
        else:
            self.has_come = True

    def deliver(self) -> None:
        """Raise what has come meanwhile."""
        if self.has_come and self.handler:
            self.has_come = False
            self.handler(_signal.SIGINT, sys._getframe())  # noqa: SLF001 - what handlers are given


_interrupts = _Interrupts()


class _Uninterrupted(contextlib.ContextDecorator):
    """A block, or a function, in which KeyboardInterrupt waits until its end.

    It may be entered again inside, and in any thread; only the main one is interrupted.
    """

    def __enter__(self) -> None:
        if _thread.get_ident() != threading.main_thread().ident:
            return
        state = _interrupts
        if not state.depth:
            handler = _signal.getsignal(_signal.SIGINT)
            if callable(handler):  # else nothing is raised
                state.handler, state.has_come = handler, False
                # From the middle of this on nothing is raised any more.
                _signal.signal(_signal.SIGINT, state.take)
        state.depth += 1

    def __exit__(self, *_: object) -> None:
        state = _interrupts
        if _thread.get_ident() != threading.main_thread().ident or not state.depth:
            return
        state.depth -= 1
        if state.depth or state.handler is None:
            return
        handler, state.handler = state.handler, None
        if _signal.getsignal(_signal.SIGINT) == state.take:
            _signal.signal(_signal.SIGINT, handler)
        # From here on it is raised where it comes.
        if state.has_come:
            state.has_come = False
            handler(_signal.SIGINT, sys._getframe())  # noqa: SLF001 - what handlers are given


uninterrupted = _Uninterrupted()


class Monitor:
    """A lock, and the news of those who changed what it guards.

    As `threading.Condition`, but KeyboardInterrupt is kept waiting while the main
    thread has it, and raised in `wait`.  A thread may take it again that has it.
    """

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._owner = 0
        self._depth = 0
        self._waiters: collections.deque[Any] = collections.deque()

    def __enter__(self) -> None:
        uninterrupted.__enter__()
        if self._owner != _thread.get_ident():
            self._lock.acquire()
            self._owner = _thread.get_ident()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = 0
            self._lock.release()
        uninterrupted.__exit__()

    @property
    def is_held(self) -> bool:
        """Whether this thread has it."""
        return self._owner == _thread.get_ident()

    def notify_all(self) -> None:
        """Wake all who wait.  Called with the lock held."""
        while self._waiters:
            self._waiters.popleft().release()

    def wait(self, timeout: float | None = None) -> bool:
        """Give the lock back until there is news; return whether there was in time."""
        waiter = _thread.allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        depth, self._depth, self._owner = self._depth, 0, 0
        is_main = _thread.get_ident() == threading.main_thread().ident
        state = _interrupts
        is_news = False
        self._lock.release()
        # Assignments alone are never interrupted (ceval.c looks for signals in calls and
        # in jumps back), so that what is set here before and after the wait is set for sure.
        try:
            if is_main:
                state.in_wait = True
                state.deliver()
            limit = -1 if timeout is None else max(0.0, min(timeout, _thread.TIMEOUT_MAX))
            is_news = waiter.acquire(True, limit)
        finally:
            if is_main:
                state.in_wait = False
            self._lock.acquire()
            self._owner, self._depth = _thread.get_ident(), depth
            if not is_news and waiter in self._waiters:
                self._waiters.remove(waiter)
        return is_news

    def wait_for(self, over: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until ``over()``, which is asked with the lock held; return its last answer."""
        end = None if timeout is None else time.monotonic() + timeout
        while not (answer := over()):
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return answer


def _forget() -> None:
    # A forked child has a main thread of its own, which may have forked in the middle.
    state = _interrupts
    if state.handler is not None and _signal.getsignal(_signal.SIGINT) == state.take:
        _signal.signal(_signal.SIGINT, state.handler)
    state.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_forget)
